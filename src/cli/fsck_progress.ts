/** Shows the progress of a check: a bar on a terminal, a line for each phase elsewhere. */

import type { FsckPhase } from '../storage/fsck/scan.js';

const WHAT: Readonly<Record<FsckPhase, string>> = {
  pages: 'pages of the database',
  inodes: 'inodes and content',
  names: 'names',
  positions: 'positions of names',
  blocks: 'checksums',
};
const BAR = 30;
const REDRAW_MS = 100;

export interface ProgressOutput {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

export class FsckProgress {
  readonly #output: ProgressOutput;
  readonly #nowMs: () => number;
  #phase: FsckPhase | undefined;
  #drawnMs = Number.NEGATIVE_INFINITY;
  #drawn = false;

  constructor(output: ProgressOutput, nowMs: () => number = () => performance.now()) {
    this.#output = output;
    this.#nowMs = nowMs;
  }

  show(phase: FsckPhase, done: number, total: number): void {
    const isNew = phase !== this.#phase;
    this.#phase = phase;
    if (this.#output.isTTY !== true) {
      if (isNew) this.#output.write(`holdfast: checking ${WHAT[phase]}\n`);
      return;
    }
    const nowMs = this.#nowMs();
    if (!isNew && nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    this.#drawn = true;
    // A damaged target may hold more records than its counters say.
    const part = total > 0 ? Math.min(1, done / total) : 0;
    const bar = '#'.repeat(Math.round(part * BAR)).padEnd(BAR);
    this.#output.write(`\r\x1b[K${WHAT[phase].padEnd(22)} [${bar}] ${Math.floor(part * 100)} %`);
  }

  /** Removes the bar. */
  end(): void {
    if (this.#drawn) this.#output.write('\r\x1b[K');
    this.#drawn = false;
  }
}
