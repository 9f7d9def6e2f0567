/**
 * What can be told of the multi-mount block by looking at it again and again: whether whoever wrote it is alive, and
 * whether the target may be claimed. The rules are in multi_mount.ts.
 *
 * Silence is counted from the end of the look that found these bytes first to the beginning of the last one that found
 * them: in between nothing was written, however long the looks took and whether or not we stood still.
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
      readonly why: 'never held' | 'clean' | 'gone' | 'silent';
      readonly record: MultiMountRecord | undefined;
    }
  | {
      readonly free: false;
      readonly record: MultiMountRecord | undefined;
      /** The block changed under our eyes. */
      readonly alive: boolean;
    };

export interface Seen {
  readonly bytes: Buffer;
  readonly content: MultiMountContent;
  /** When the look that found these bytes first was over: they were written before. */
  readonly atMs: number;
  /** Other bytes were there when we looked before. */
  readonly changed: boolean;
  /** Clean, but said so by another than the one who had the target when we looked before: perhaps by one who was late. */
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

  /** @param issuedMs before the look that found these bytes. */
  found(bytes: Buffer, issuedMs: number): Sighting {
    const seen =
      this.#seen?.bytes.equals(bytes) === true ? this.#seen : this.#see(bytes, this.#seen !== undefined);
    return this.#judge(seen, issuedMs);
  }

  /** Somebody wrote it just now. */
  changed(bytes: Buffer): void {
    this.#see(bytes, true);
  }

  /** Our own claim, which came too late, is as good as another's. */
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

  /** @param issuedMs before the look that found the block unchanged. */
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
