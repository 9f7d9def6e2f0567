/**
 * A client machine of the world: what `holdfast mount` is, with a kernel on top and processes on top of that. It can be
 * unmounted and mounted again, killed, or lose its power.
 */

import type { Checked } from '../../src/base/assert.js';
import { FsError } from '../../src/base/errno.js';
import type { FsClient } from '../../src/client/api.js';
import { startClient } from '../../src/client/client.js';
import type { Address, Credentials } from '../../src/runtime/ports.js';
import { createVfs } from '../../src/vfs/vfs.js';
import { Process } from './file_calls.js';
import { SimKernel } from './kernel.js';
import type { HowEnded, Machine, Program } from './machine.js';
import { type Build, spokenBy, THIS_BUILD } from './versions.js';

const CACHE_BYTES = 8 << 20;

export class ClientNode {
  readonly machine: Machine;
  readonly #servers: readonly Address[];
  #program: Program | undefined;
  #kernel: SimKernel | undefined;
  #client: FsClient | undefined;
  /** The program that #client runs in. */
  #clientProgram: Program | undefined;
  #mounts = 0;
  /** By mount: times that what its processes know was lost, because it was evicted or killed. */
  readonly #disturbances = new Map<number, number>();
  /** Mounts that were unmounted in order: everything they were told is promised. */
  readonly #left = new Set<number>();
  /** What it was told of its evictions. */
  readonly evictions: string[] = [];
  version = '1.0.0';
  /** What its build can do, and that of a server. */
  build = THIS_BUILD;
  buildAt: (address: Address) => Build = () => THIS_BUILD;
  /** What was not synced may be lost: the data device has failed, or a write that found no room was interrupted. */
  mayLose: () => boolean = () => false;
  /** Cache locks that it keeps; undefined: as many as a real mount does. */
  maxLocks: number | undefined;

  /** With which it connects; undefined: with nothing. */
  credentials: Credentials | undefined;

  /** It waits for each operation on names. */
  syncMetadata = false;

  constructor(machine: Machine, servers: readonly Address[]) {
    this.machine = machine;
    this.#servers = servers;
  }

  get name(): string {
    return this.machine.name;
  }
  /** Which mount it is, counted from 1. */
  get mountNumber(): number {
    return this.#mounts;
  }
  disturbances(mount: number): number {
    return this.#disturbances.get(mount) ?? 0;
  }
  disturbed(mount: number): void {
    // What happens to a client that has left is no excuse for anything.
    if (this.#left.has(mount)) return;
    this.#disturbances.set(mount, this.disturbances(mount) + 1);
  }
  get isMounted(): boolean {
    return this.#program?.alive === true && this.#kernel?.isMounted === true;
  }
  get program(): Program | undefined {
    return this.#program?.alive === true ? this.#program : undefined;
  }
  get kernel(): SimKernel {
    if (this.#kernel === undefined) throw new Error(`${this.name} is not mounted`);
    return this.#kernel;
  }
  get client(): FsClient {
    if (this.#client === undefined) throw new Error(`${this.name} is not mounted`);
    return this.#client;
  }

  /** Tables of the client that runs, to be judged between two events. */
  checked(): readonly Checked[] {
    if (this.#client === undefined || this.#clientProgram?.alive !== true) return [];
    return this.#client.checked();
  }

  async mount(): Promise<void> {
    if (!this.machine.hasPower) this.machine.powerOn();
    const { scheduler, rng } = this.machine;
    const program = this.machine.run('client');
    this.#program = program;
    this.#mounts += 1;
    this.#say('mounts');
    const runtime = program.runtime();
    const { build } = this;
    const transport = spokenBy(runtime.transport, build, (address) => this.buildAt(address));
    const vfs = createVfs();
    const client = await startClient(
      { ...runtime, transport },
      {
        addresses: this.#servers,
        credentials: () => this.credentials,
        name: `${this.name}.${this.#mounts}`,
        softwareVersion: this.version,
        cacheBytes: CACHE_BYTES,
        connectTimeoutMs: undefined,
        maxLocks: this.maxLocks,
        syncMetadata: this.syncMetadata,
        kernel: vfs.kernelCache,
        onState: (text) => this.#state(text),
      },
    );
    vfs.attach(client);
    const kernel = new SimKernel(vfs.handlers, program, scheduler, rng.fork(`kernel ${this.#mounts}`));
    vfs.bind(kernel.notifier);
    await kernel.mount();
    this.#client = client;
    this.#clientProgram = program;
    this.#kernel = kernel;
    this.#say('is mounted');
  }

  /**
   * umount(8), and the end of the client process. Its processes have ended.
   * @throws FsError what is lost, when nothing has happened that excuses it.
   */
  async unmount(): Promise<void> {
    this.#say('unmounts');
    const mount = this.#mounts;
    await this.kernel.unmount();
    const loss = await this.client.unmount().then(
      () => undefined,
      (error: unknown) => {
        if (error instanceof FsError) return error;
        throw error;
      },
    );
    this.#program?.end('exit');
    if (loss === undefined) {
      this.#left.add(mount);
      this.#say('is unmounted');
      return;
    }
    if (this.disturbances(mount) === 0 && !this.mayLose()) throw loss;
    this.disturbed(mount);
    this.#say(`is unmounted: ${loss.message}`);
  }

  /** The client process is gone, and the mount with it: its processes get ENOTCONN. */
  crash(how: Exclude<HowEnded, 'exit'> = 'kill'): void {
    this.disturbed(this.#mounts);
    this.#say(how === 'power' ? 'loses its power' : 'is killed');
    if (how === 'power') this.machine.powerOff();
    else this.#program?.end('kill');
  }

  process(): Process {
    return new Process(this.kernel);
  }

  #state(text: string): void {
    if (/EVICTED|evicted/.test(text)) this.evictions.push(text);
    this.#say(text);
  }
  #say(text: string): void {
    this.machine.scheduler.trace.say(this.name, text);
  }
}
