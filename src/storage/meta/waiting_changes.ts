/**
 * Changes of the database that are in the redo log and not in the tree: for each key the last one, found by key and by
 * range. Keys are looked up as latin1 text, whose order is that of the bytes.
 *
 * Invariants: each change is in the list of its prefix; bytes is the sum of all keys and values.
 */

import { assert } from '../../base/assert.js';
import { isOfEveryTransaction } from '../format/keys.js';
import type { LoggedChange } from '../format/log_record.js';

/** Type byte and FID: what most ranges are within. */
const PREFIX_BYTES = 9;

export class WaitingChanges {
  readonly #byKey = new Map<string, LoggedChange>();
  readonly #byPrefix = new Map<string, Set<string>>();
  #bytes = 0;
  #records = 0;
  /** Content that the log took along, and that no flush of the data device covers. */
  isContentLoose = false;

  get size(): number {
    return this.#byKey.size;
  }
  get bytes(): number {
    return this.#bytes;
  }
  /** Those that not every transaction makes. */
  get records(): number {
    return this.#records;
  }

  /** @param changes nobody changes their keys and values any more. */
  add(changes: readonly LoggedChange[]): void {
    for (const change of changes) {
      const text = change.key.toString('latin1');
      const before = this.#byKey.get(text);
      this.#bytes += bytesOf(change) - (before === undefined ? 0 : bytesOf(before));
      this.#byKey.set(text, change);
      if (before !== undefined) continue;
      if (!isOfEveryTransaction(change.key)) this.#records += 1;
      const prefix = text.slice(0, PREFIX_BYTES);
      const texts = this.#byPrefix.get(prefix);
      if (texts === undefined) this.#byPrefix.set(prefix, new Set([text]));
      else texts.add(text);
    }
  }

  get(text: string): LoggedChange | undefined {
    return this.#byKey.get(text);
  }

  changes(): Iterable<LoggedChange> {
    return this.#byKey.values();
  }

  /** Those with start <= key < end, in no order. */
  *between(start: Buffer, end: Buffer): Iterable<[string, LoggedChange]> {
    if (this.#byKey.size === 0) return;
    const [from, to] = [start.toString('latin1'), end.toString('latin1')];
    for (const text of this.#textsAround(from, to)) {
      const change = this.#byKey.get(text);
      if (text >= from && text < to && change !== undefined) yield [text, change];
    }
  }

  #textsAround(from: string, to: string): Iterable<string> {
    const prefix = from.slice(0, PREFIX_BYTES);
    // Nothing with another prefix of that length lies between the two.
    const isWithin = from.length >= PREFIX_BYTES && (to.startsWith(prefix) || to === textAfter(prefix));
    return isWithin ? (this.#byPrefix.get(prefix) ?? []) : this.#byKey.keys();
  }

  checkInvariants(): void {
    let [bytes, listed, records] = [0, 0, 0];
    for (const change of this.#byKey.values()) {
      bytes += bytesOf(change);
      if (!isOfEveryTransaction(change.key)) records += 1;
    }
    assert(records === this.#records, `${records} records wait, counted ${this.#records}`);
    for (const texts of this.#byPrefix.values()) listed += texts.size;
    assert(bytes === this.#bytes, `changes of ${bytes} bytes wait, counted ${this.#bytes}`);
    assert(listed === this.#byKey.size, `${this.#byKey.size} changes wait, and ${listed} are listed`);
  }
}

function bytesOf({ key, value }: LoggedChange): number {
  return key.length + (value?.length ?? 0);
}

/** The least text above all that begin with the prefix; as afterPrefix() makes it of a key. */
function textAfter(prefix: string): string {
  let end = prefix.length - 1;
  while (end >= 0 && prefix.charCodeAt(end) === 0xff) end--;
  return end < 0 ? prefix : prefix.slice(0, end) + String.fromCharCode(prefix.charCodeAt(end) + 1);
}
