/**
 * What the code says of its own tables (checkInvariants), asked while a world plays: after each event all tables of the program
 * that the event belonged to, or of all programs when it belonged to none (a script, a fault, a call of a process), and of all
 * programs at the end. An event of one program changes no table of another.
 */

import type { Checked } from '../../src/base/assert.js';
import type { World } from './world.js';

interface Node {
  readonly name: string;
  readonly program: unknown;
  checked(): readonly Checked[];
}

export class InvariantWatch {
  readonly #world: World;
  readonly #nodes: readonly Node[];
  #isViolated = false;

  constructor(world: World) {
    this.#world = world;
    this.#nodes = [...world.servers, ...world.clients];
    world.scheduler.afterEvent = (owner) => {
      if (owner === undefined) this.all();
      else for (const node of this.#nodes) if (node.program === owner) this.#check(node);
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
