/** What happened, in lines: the newest are kept for the report of a failure, all of them go into the digest. */

import { hashText, mix32 } from './rng.js';

const KEPT_MAX = 4000;

export class Trace {
  readonly #nowMs: () => number;
  #lines: string[] = [];
  /** Of every event and line so far. */
  digest = 0;
  /** Prints each line as it comes. */
  echo: ((line: string) => void) | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  say(who: string, what: string): void {
    const line = `${this.#nowMs().toFixed(3).padStart(11)} ${who.padEnd(10)} ${what}`;
    this.digest = mix32(hashText(line, this.digest));
    this.#lines.push(line);
    if (this.#lines.length > 2 * KEPT_MAX) this.#lines = this.#lines.slice(-KEPT_MAX);
    this.echo?.(line);
  }

  /** @param pattern only lines that match. Newest last. */
  last(count: number, pattern?: RegExp): string[] {
    const lines = pattern === undefined ? this.#lines : this.#lines.filter((line) => pattern.test(line));
    return lines.slice(-count);
  }
}
