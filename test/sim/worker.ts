/**
 * What all workers share. A worker is one process that uses the file system and knows what it should see.
 *
 * Everything it is told must be right as long as its client was not disturbed: killed, evicted, or its process killed. When
 * it was, the worker ends (Disturbed), and only what had been made durable is still promised to it.
 */

import type { ClientNode } from './client_node.js';
import { Process } from './file_calls.js';
import type { SimRng } from './rng.js';
import { SystemError } from './system_error.js';
import type { World } from './world.js';

/** The worker's client was disturbed: what it knows is not promised any more. */
export class Disturbed extends Error {
  override name = 'Disturbed';
}

export abstract class Worker {
  readonly world: World;
  readonly node: ClientNode;
  readonly name: string;
  readonly rng: SimRng;
  readonly process: Process;
  readonly #mount: number;
  readonly #disturbancesBefore: number;
  operations = 0;
  /** What it does now, for the report of a run that does not end. */
  doing = 'nothing';
  state: 'working' | 'done' | 'disturbed' = 'working';
  #isStopping = false;

  constructor(world: World, node: ClientNode, name: string) {
    this.world = world;
    this.node = node;
    this.name = name;
    this.rng = world.rng.fork(`worker ${name}`);
    this.process = new Process(node.kernel);
    this.#mount = node.mountNumber;
    this.#disturbancesBefore = node.disturbances(this.#mount);
  }

  /** Its work, until it is done or told to stop. */
  protected abstract work(): Promise<void>;

  get isStopping(): boolean {
    return this.#isStopping;
  }
  stop(): void {
    this.#isStopping = true;
  }

  get isDisturbed(): boolean {
    return this.node.disturbances(this.#mount) !== this.#disturbancesBefore || this.process.isKilled;
  }

  /** Never rejects: what is wrong is a violation of the world. */
  async run(): Promise<void> {
    try {
      await this.work();
      this.state = 'done';
    } catch (error) {
      if (error instanceof Disturbed || this.isDisturbed) {
        this.state = 'disturbed';
        this.world.scheduler.trace.say(this.name, `ends, disturbed: ${String(error)}`);
      } else {
        this.wrong(error instanceof Error ? (error.stack ?? error.message) : String(error));
      }
    } finally {
      this.doing = 'closing its files';
      await this.process.exit();
      this.doing = 'nothing';
    }
  }

  /** One operation, as it shows in the trace. */
  protected async does<T>(what: string, run: () => Promise<T>): Promise<T> {
    this.operations += 1;
    this.doing = what;
    try {
      const result = await run();
      this.world.scheduler.trace.say(this.name, what);
      if (this.isDisturbed) throw new Disturbed('its client was disturbed');
      return result;
    } catch (error) {
      this.world.scheduler.trace.say(this.name, `${what}: ${error instanceof Error ? error.message : error}`);
      throw error;
    } finally {
      this.doing = 'nothing';
    }
  }

  /** Wrong, unless its client was disturbed. */
  protected wrong(what: string): never | void {
    if (this.isDisturbed) throw new Disturbed(what);
    this.world.violated(`${this.name} on ${this.node.name}: ${what}`);
  }

  protected expect(isSo: boolean, what: () => string): void {
    if (!isSo) this.wrong(what());
  }

  /** The errno that it fails with; '' when it does not. */
  protected async errno(run: () => Promise<unknown>): Promise<string> {
    try {
      await run();
      return '';
    } catch (error) {
      if (error instanceof SystemError) return error.code;
      throw error;
    }
  }

  protected think(): Promise<void> {
    return this.world.sleep(this.rng.chance(0.1) ? this.rng.below(200) : this.rng.below(4));
  }
}
