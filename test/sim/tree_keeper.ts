/** A worker with a tree of its own, which is compared with its model at the end of a run. */

import type { Model, ModelNode } from './model.js';
import { Worker } from './worker.js';

/** What the last fsync promised. */
export interface Promised {
  readonly path: string;
  readonly kind: ModelNode['kind'];
  /** Content that was synced; undefined when it was written since. */
  readonly content: Buffer | undefined;
}

export abstract class TreeKeeper extends Worker {
  abstract readonly model: Model;
  abstract readonly base: string;

  /** What must be there although this worker's client was disturbed. */
  abstract promised(): Promised[];
}
