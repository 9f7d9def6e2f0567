/**
 * What the code says of its own tables (checkInvariants), asked while a world plays: after each event one table of one program, in
 * turn, and all tables of all programs after every EVENTS_A_ROUND events and at the end. All of them after each event would take
 * ten times as long as the events themselves.
 */

import type { Checked } from '../../src/base/assert.js';
import type { World } from './world.js';

const EVENTS_A_ROUND = 50;

interface Node {
  readonly name: string;
  checked(): readonly Checked[];
}

export class InvariantWatch {
  readonly #world: World;
  readonly #nodes: readonly Node[];
  #isViolated = false;

  constructor(world: World) {
    this.#world = world;
    this.#nodes = [...world.servers, ...world.clients];
    world.scheduler.afterEvent = (event) => {
      if (this.#isViolated) return;
      if (event % EVENTS_A_ROUND === 0) this.all();
      else this.#one(event);
    };
  }

  all(): void {
    for (const node of this.#nodes) for (const table of node.checked()) this.#check(node, table);
  }

  #one(event: number): void {
    const node = this.#nodes[event % this.#nodes.length];
    const tables = node?.checked() ?? [];
    const table = tables[Math.floor(event / this.#nodes.length) % tables.length];
    if (node !== undefined && table !== undefined) this.#check(node, table);
  }

  /** One violation is enough: what follows from it says less. */
  #check(node: Node, table: Checked): void {
    if (this.#isViolated) return;
    try {
      table.checkInvariants();
    } catch (error) {
      this.#isViolated = true;
      const what = error instanceof Error ? error.stack : String(error);
      this.#world.violated(`an invariant of ${table.constructor.name} on ${node.name}: ${what}`);
    }
  }
}
