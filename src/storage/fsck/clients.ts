/** The target's counters, its client records, and the reply records that answer clients after a restart. */

import { FsError } from '../../base/errno.js';
import type { ClientUuid, Transno } from '../../base/ids.js';
import { EVICTIONS_KEPT } from '../api.js';
import { bareKey, clientKey, KEY, slotOf } from '../format/keys.js';
import {
  COUNTERS_BYTES,
  type Counters,
  decodeClient,
  decodeCounters,
  decodeEviction,
  decodeReply,
  REPLY_BYTES,
  uuidFromBytes,
} from '../format/records.js';
import type { NamesResult } from './names.js';
import { type FsckContext, isSoundKey, reportKey, scanType } from './scan.js';

/** Transnos of instance n begin at n times this. */
const TRANSNOS_PER_INSTANCE = 2 ** 32;
/** A running server writes the counters this far ahead: a client may hold FIDs that no record names yet. */
const AHEAD = 2 ** 22;

/** @returns undefined if the counters are lost: without them fsck can repair nothing. */
export function readCounters(context: FsckContext): Counters | undefined {
  const value = context.db.get(bareKey(KEY.counters));
  if (value !== undefined && value.length === COUNTERS_BYTES && value[0] === 1) return decodeCounters(value);
  const text = `the record of the counters is ${value === undefined ? 'missing' : 'damaged'}`;
  context.findings.add({ kind: 'counter', text });
  return undefined;
}

export function checkCounters(
  { findings, counts, superblock }: FsckContext,
  counters: Counters,
  { lastObject, lastCookie }: Pick<NamesResult, 'lastCookie'> & { readonly lastObject: number },
): void {
  if (counters.inodes !== counts.inodes) {
    const { inodes } = counts;
    findings.add({
      kind: 'counter',
      text: `the target counts ${counters.inodes} inodes, but has ${inodes}`,
      repair: { stage: 'space', done: `set to ${inodes}`, apply: (tx) => tx.setCounters({ inodes }) },
    });
  }
  for (const [what, key, last] of [
    ['object', 'nextObject', lastObject],
    ['directory position', 'nextCookie', lastCookie],
  ] as const) {
    if (counters[key] > last) continue;
    const right = last + 1 + AHEAD;
    findings.add({
      kind: 'counter',
      text: `the next ${what} would be ${counters[key]}, but ${last} is in use`,
      repair: {
        stage: 'counters',
        done: `set to ${right}`,
        apply: (tx) => tx.setCounters({ [key]: right }),
      },
    });
  }
  if (counters.lastTransno >= (superblock.instance + 1) * TRANSNOS_PER_INSTANCE) {
    findings.add({
      kind: 'counter',
      text: `the last transno ${counters.lastTransno} is of a later instance than ${superblock.instance}`,
    });
  }
}

export async function checkClients(context: FsckContext, lastTransno: Transno): Promise<void> {
  const { findings, counts } = context;
  await scanType(context, KEY.client, (record) => {
    if (!isSoundKey(record.key)) {
      reportKey(findings, record);
      return;
    }
    counts.clients++;
    const uuid = uuidFromBytes(record.key.subarray(1, 17)) as ClientUuid;
    try {
      const client = decodeClient(uuid, record.value);
      if (client.lastTransno <= lastTransno) return;
      const text = `client ${uuid} has seen transno ${client.lastTransno}, the target only ${lastTransno}`;
      findings.add({ kind: 'client', text });
    } catch (thrown) {
      if (!(thrown instanceof FsError)) throw thrown;
      findings.add({ kind: 'damaged-record', text: `the record of client ${uuid} is damaged` });
    }
  });
}

export async function checkReplies(context: FsckContext, lastTransno: Transno): Promise<void> {
  const { findings, counts, db } = context;
  let client = '';
  let isKnown = false;
  let xids = new Set<number>();
  await scanType(context, KEY.reply, (record) => {
    const { key, value } = record;
    if (!isSoundKey(key)) {
      reportKey(findings, record);
      return;
    }
    counts.replies++;
    const uuid = uuidFromBytes(key.subarray(1, 17)) as ClientUuid;
    if (uuid !== client) {
      client = uuid;
      isKnown = db.get(clientKey(uuid)) !== undefined;
      xids = new Set();
    }
    const what = `reply ${slotOf(key)} of client ${uuid}`;
    // A version that knows no replies left it when it removed the client. It means nothing.
    if (!isKnown) return;
    if (value.length !== REPLY_BYTES || value[0] !== 1) {
      findings.add({ kind: 'damaged-record', text: `the record of ${what} is damaged` });
      return;
    }
    const { transno, xid } = decodeReply(what, value);
    if (transno > lastTransno) {
      const text = `${what} has transno ${transno}, but the last of the target is ${lastTransno}`;
      findings.add({ kind: 'reply', text });
    }
    if (xids.has(xid)) findings.add({ kind: 'reply', text: `${what} answers xid ${xid}, as another does` });
    xids.add(xid);
  });
}

/** Evictions are there for people alone, so fsck removes a damaged one. */
export async function checkEvictions(context: FsckContext): Promise<void> {
  const { findings } = context;
  await scanType(context, KEY.eviction, (record) => {
    if (!isSoundKey(record.key)) {
      reportKey(findings, record);
      return;
    }
    const key = Buffer.from(record.key);
    const slot = key[1] ?? 0;
    if (isEvictionOf(slot, record.value)) return;
    findings.add({
      kind: 'damaged-record',
      text: `the record of eviction ${slot} is damaged`,
      repair: { stage: 'records', done: 'removed', apply: (tx) => tx.remove(key) },
    });
  });
}

function isEvictionOf(slot: number, value: Buffer): boolean {
  try {
    return decodeEviction(`eviction ${slot}`, value).number % EVICTIONS_KEPT === slot;
  } catch (thrown) {
    if (!(thrown instanceof FsError)) throw thrown;
    return false;
  }
}
