/**
 * What all workers share. A worker is one process that uses the file system and knows what it should see.
 *
 * Everything it is told must be right as long as its client was not disturbed: killed, evicted, or its process killed. When
 * it was, the worker ends (Disturbed), and only what had been made durable is still promised to it.
 *
 * When the data device fails reads or writes, a call may fail with EIO, and what was not synced may be lost; but who has the
 * file open is told, at the latest when it closes it. What else is lost is wrong (Suspect, until the files are closed).
 */

import { OPCODE } from '../../src/fuse/constants.js';
import type { ClientNode } from './client_node.js';
import { Process } from './file_calls.js';
import type { SimRng } from './rng.js';
import { SystemError } from './system_error.js';
import type { World } from './world.js';

/** The worker's client was disturbed: what it knows is not promised any more. */
export class Disturbed extends Error {
  override name = 'Disturbed';
}

/** Wrong, unless it is told that the device has lost what it misses. */
class Suspect extends Error {
  override name = 'Suspect';
}

export abstract class Worker {
  readonly world: World;
  readonly node: ClientNode;
  readonly name: string;
  readonly rng: SimRng;
  readonly process: Process;
  readonly #mount: number;
  readonly #disturbancesBefore: number;
  readonly #dataErrorsBefore: number;
  #wasToldOfLoss = false;
  /** Others' data matters to it: what they have lost and are not told of yet it cannot know. */
  protected readonly sharesData: boolean = false;
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
    this.#dataErrorsBefore = world.dataErrors;
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
    if (this.process.isKilled || this.#wasToldOfLoss) return true;
    if (this.sharesData && this.#mayHaveLost) return true;
    return this.node.disturbances(this.#mount) !== this.#disturbancesBefore;
  }

  /** It has closed files before all of what it wrote was on the devices: nobody can be told what becomes of that. */
  protected get hasClosedUnsynced(): boolean {
    return false;
  }

  /** What it did not sync may be lost without a word. */
  get mayHaveLostUntold(): boolean {
    return this.#mayHaveLost && this.hasClosedUnsynced;
  }

  /** The data device has failed something since it began. */
  get #mayHaveLost(): boolean {
    return this.world.dataErrors !== this.#dataErrorsBefore;
  }
  #tells(error: unknown): boolean {
    if (!(error instanceof SystemError) || error.code !== 'EIO') return false;
    return this.#mayHaveLost || (this.#mayTellOfOthers && error.call === String(OPCODE.FSYNC));
  }
  /** fsync of a file that others have written and closed before says what became of that. */
  get #mayTellOfOthers(): boolean {
    return this.sharesData && (this.world.dataErrors > 0 || this.node.disturbances(this.#mount) > 0);
  }

  /** Never rejects: what is wrong is a violation of the world. */
  async run(): Promise<void> {
    try {
      await this.work();
      this.state = 'done';
    } catch (error) {
      if (this.#tells(error)) this.#wasToldOfLoss = true;
      // Whatever it stumbles over may come of a loss.
      if (error instanceof Suspect || (this.#mayHaveLost && !this.isDisturbed)) {
        const failures = await this.#closesAll();
        this.#wasToldOfLoss = this.mayHaveLostUntold || failures.some((failure) => this.#tells(failure));
      }
      if (error instanceof Disturbed || this.isDisturbed) {
        this.state = 'disturbed';
        this.world.scheduler.trace.say(this.name, `ends, disturbed: ${String(error)}`);
      } else {
        this.#violated(error instanceof Error ? (error.stack ?? error.message) : String(error));
      }
    } finally {
      await this.#closesAll();
    }
  }

  async #closesAll(): Promise<SystemError[]> {
    this.doing = 'closing its files';
    const failures = await this.process.exit();
    this.doing = 'nothing';
    return failures;
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
    if (this.#mayHaveLost) throw new Suspect(what);
    this.#violated(what);
  }

  #violated(what: string): void {
    this.world.violated(`${this.name} on ${this.node.name}: ${what}`);
  }

  protected expect(isSo: boolean, what: () => string): void {
    if (!isSo) this.wrong(what());
  }

  /** The errno that it fails with; '' when it does not. @throws SystemError EIO when the device may be why. */
  protected async errno(run: () => Promise<unknown>): Promise<string> {
    try {
      await run();
      return '';
    } catch (error) {
      if (error instanceof SystemError && !this.#tells(error)) return error.code;
      throw error;
    }
  }

  protected think(): Promise<void> {
    return this.world.sleep(this.rng.chance(0.1) ? this.rng.below(200) : this.rng.below(4));
  }
}
