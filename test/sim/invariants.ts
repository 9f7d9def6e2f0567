/**
 * What the code says of its own tables (checkInvariants), asked while a world plays: after every second event all tables of the
 * program that the event belonged to (an event of one program changes no table of another); all tables of all programs after
 * every eighth event that belonged to none (a script, a call of a process), at each fault and at the end. A check takes longer
 * than an event: after each of them the simulator would be more than twice as slow. In a world with thousands of files a check takes
 * a hundred times as long as an event: there, it follows every two hundredth.
 */

import type { Checked } from '../../src/base/assert.js';
import type { World } from './world.js';

const EVENTS_A_LOOK = 2;
const EVENTS_A_ROUND = 8;
/** Of a world with many files, times as many. */
const SELDOM = 100;

interface Node {
  readonly name: string;
  readonly program: unknown;
  checked(): readonly Checked[];
}

export class InvariantWatch {
  readonly #world: World;
  readonly #nodes: readonly Node[];
  #isViolated = false;
  #events = 0;

  /** @param seldom the world has many files. */
  constructor(world: World, seldom = false) {
    const times = seldom ? SELDOM : 1;
    this.#world = world;
    this.#nodes = [...world.servers, ...world.clients];
    world.scheduler.afterEvent = (owner) => {
      this.#events += 1;
      if (owner === undefined) {
        if (this.#events % (EVENTS_A_ROUND * times) === 0) this.all();
        return;
      }
      if (this.#events % (EVENTS_A_LOOK * times) !== 0) return;
      for (const node of this.#nodes) if (node.program === owner) this.#check(node);
    };
  }

  all(): void {
    for (const node of this.#nodes) this.#check(node);
  }

  /** One violation is enough: what follows from it says less. */
  #check(node: Node): void {
    if (this.#isViolated) return;
    for (const table of node.checked()) {
      try {
        table.checkInvariants();
      } catch (error) {
        this.#isViolated = true;
        const what = error instanceof Error ? error.stack : String(error);
        this.#world.violated(`an invariant of ${table.constructor.name} on ${node.name}: ${what}`);
      }
    }
  }
}
