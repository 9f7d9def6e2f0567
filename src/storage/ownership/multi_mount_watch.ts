/**
 * Looks at the multi-mount block again and again, and says whether its writer is alive, and whether the target may be
 * claimed. The rules are in multi_mount.ts.
 *
 * Silence lasts from the end of the first look that found these bytes to the beginning of the last look that found
 * them: nobody wrote in between, however long the looks took and even if this process stopped for a while.
 */

import type { Runtime } from '../../runtime/ports.js';
import {
  decodeMultiMount,
  type MultiMountContent,
  type MultiMountRecord,
  type Owner,
} from './multi_mount_block.js';

export const DEFAULT_PERIOD_MS = 5000;

export type Sighting =
  | {
      readonly free: true;
      readonly why: 'never held' | 'clean' | 'handed over' | 'gone' | 'silent';
      readonly record: MultiMountRecord | undefined;
    }
  | {
      readonly free: false;
      readonly record: MultiMountRecord | undefined;
      /** We saw the block change. */
      readonly alive: boolean;
    };

export interface Seen {
  readonly bytes: Buffer;
  readonly content: MultiMountContent;
  /** When the first look that found these bytes was over: they were written before. */
  readonly atMs: number;
  /** An earlier look found other bytes. */
  readonly changed: boolean;
  /** The block says clean, but its writer is not the holder that our look before saw: perhaps a late write. */
  readonly doubtful: boolean;
}

export class MultiMountWatch {
  readonly #runtime: Pick<Runtime, 'clock' | 'checksum'>;
  readonly #isGone: ((owner: Owner) => boolean) | undefined;
  #seen: Seen | undefined;

  constructor(runtime: Pick<Runtime, 'clock' | 'checksum'>, isGone: ((owner: Owner) => boolean) | undefined) {
    this.#runtime = runtime;
    this.#isGone = isGone;
  }

  get last(): Seen | undefined {
    return this.#seen;
  }

  /** @param issuedMs when the look that found these bytes began. */
  found(bytes: Buffer, issuedMs: number): Sighting {
    const seen =
      this.#seen?.bytes.equals(bytes) === true ? this.#seen : this.#see(bytes, this.#seen !== undefined);
    return this.#judge(seen, issuedMs);
  }

  /** Somebody wrote these bytes just now. */
  changed(bytes: Buffer): void {
    this.#see(bytes, true);
  }

  /** Our own claim came too late: treat it like a foreign one. */
  startOver(bytes: Buffer): void {
    this.#see(bytes, false);
  }

  #see(bytes: Buffer, changed: boolean): Seen {
    const content = decodeMultiMount(bytes, this.#runtime.checksum);
    const before = this.#seen?.content;
    const doubtful =
      isClean(content) &&
      before?.kind === 'record' &&
      before.record.nonce !== content.record.nonce &&
      !(isClean(before) && this.#seen?.doubtful === false);
    this.#seen = { bytes, content, atMs: this.#runtime.clock.nowMs(), changed, doubtful };
    return this.#seen;
  }

  /** @param issuedMs when the look that found the block unchanged began. */
  #judge(seen: Seen, issuedMs: number): Sighting {
    const { content } = seen;
    if (content.kind === 'none') return { free: true, why: 'never held', record: undefined };
    const record = content.kind === 'record' ? content.record : undefined;
    if (isClean(content) && !seen.doubtful) return { free: true, why: 'clean', record };
    if (record !== undefined && this.#isGone?.(record.owner) === true) {
      return { free: true, why: 'gone', record };
    }
    if (issuedMs - seen.atMs >= (record?.periodMs ?? DEFAULT_PERIOD_MS)) {
      return { free: true, why: 'silent', record };
    }
    return { free: false, record, alive: seen.changed };
  }
}

function isClean(content: MultiMountContent): content is Extract<MultiMountContent, { kind: 'record' }> {
  return content.kind === 'record' && content.record.state === 'clean';
}
