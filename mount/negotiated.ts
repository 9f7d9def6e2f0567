/** What was negotiated with the kernel at INIT, in a form that travels between processes: flags are two u32. */

import { INIT_FLAG } from '../src/fuse/constants.js';
import type { Negotiated } from '../src/fuse/init.js';

export interface NegotiatedNumbers extends Omit<Negotiated, 'flags'> {
  readonly flagsLow: number;
  readonly flagsHigh: number;
}

export function packNegotiated({ flags, ...numbers }: Negotiated): NegotiatedNumbers {
  return { ...numbers, flagsLow: Number(flags & 0xffff_ffffn), flagsHigh: Number(flags >> 32n) };
}

export function unpackNegotiated(packed: NegotiatedNumbers): Negotiated {
  const { minor, maxWriteBytes, maxReadaheadBytes, maxBackground, congestionThreshold } = packed;
  const flags = (BigInt(packed.flagsHigh) << 32n) | BigInt(packed.flagsLow);
  return { minor, flags, maxWriteBytes, maxReadaheadBytes, maxBackground, congestionThreshold };
}

/** Whether the kernel can send again what was read and has no answer (NOTIFY_RESEND, Linux 6.9). */
export function canAskAgain({ flags }: Pick<Negotiated, 'flags'>): boolean {
  return (flags & INIT_FLAG.HAS_RESEND) !== 0n;
}
