/**
 * A server of the world: what `holdfast serve` is, on simulated devices. One node runs one program at a time; a killed one
 * is started again, of the same version or another, or its partner takes the devices over.
 */

import { AddressRange } from '../../src/base/address_range.js';
import type { Checked } from '../../src/base/assert.js';
import { FsError } from '../../src/base/errno.js';
import type { Address } from '../../src/runtime/ports.js';
import { createServer, type Server, type ServerOptions } from '../../src/server/server.js';
import { decideStart } from '../../src/server/target/version_gate.js';
import type { TargetStore } from '../../src/storage/api.js';
import { MultiMount } from '../../src/storage/ownership/multi_mount.js';
import { type ExclusiveDevices, type TakenTarget, takeTarget } from '../../src/storage/take_target.js';
import type { SimDisk } from './disk.js';
import type { HowEnded, Machine, Program } from './machine.js';
import type { SimMetaDisk } from './meta_disk.js';
import { type Build, THIS_BUILD } from './versions.js';

export interface Disks {
  readonly meta: SimMetaDisk;
  readonly data: SimDisk;
}

export interface StartOptions {
  readonly version?: string;
  /** What that version can do; as before when it is left out. */
  readonly build?: Build;
  readonly forceStart?: boolean;
  /** Waits until the target is free. */
  readonly standBy?: boolean;
}

/** As serve_run.ts has it: how often a standby tries its port. */
const PORT_POLL_MS = 5;

export class ServerNode {
  readonly machine: Machine;
  readonly address: Address;
  readonly #disks: Disks;
  readonly #settings: Partial<ServerOptions>;
  #program: Program | undefined;
  #server: Server | undefined;
  #store: TargetStore | undefined;
  version = '1.0.0';
  /** What the build that runs can do. */
  build = THIS_BUILD;
  /** Of the heartbeat. */
  periodMs = 5000;
  /** Told the name of each client that is evicted, when it is. */
  onEviction: (name: string, reason: string) => void = () => undefined;

  constructor(machine: Machine, address: Address, disks: Disks, settings: Partial<ServerOptions>) {
    this.machine = machine;
    this.address = address;
    this.#disks = disks;
    this.#settings = settings;
  }

  get name(): string {
    return this.machine.name;
  }
  get program(): Program | undefined {
    return this.#program?.alive === true ? this.#program : undefined;
  }
  get server(): Server | undefined {
    return this.program === undefined ? undefined : this.#server;
  }
  /** Tables of the server that runs, to be judged between two events. */
  checked(): readonly Checked[] {
    return this.server?.checked() ?? [];
  }
  /** Of the program that serves, or is about to. */
  get store(): TargetStore | undefined {
    return this.program === undefined ? undefined : this.#store;
  }

  /**
   * Serves, or says why not.
   * @throws FsError EPERM when the version gate refuses, EBUSY when somebody has the target.
   */
  async start(options: StartOptions = {}): Promise<Server> {
    const { program, server } = this.#begin(options);
    const runtime = program.runtime();
    const { data: disk } = this.#disks;
    const multiMount = new MultiMount(runtime, disk.openShared(program), {
      owner: { host: this.name, pid: program.pid, system: this.name, startedTicks: program.pid },
      state: 'active',
      periodMs: this.periodMs,
      isGone: ({ system, pid }) =>
        system === this.name && ![...this.machine.programs].some((one) => one.pid === pid),
    });
    const standBy = options.standBy ?? false;
    try {
      // As serve_run.ts does it: a standby has its port when the one before it has closed its own.
      const listening = standBy ? this.#untilFree(program, () => server.listen()) : undefined;
      const taken = await takeTarget(runtime, {
        multiMount,
        standBy,
        signal: new AbortController().signal,
        open: () => this.#open(program, standBy ? undefined : server),
        judge: (superblock) => {
          const decision = decideStart(superblock, this.version, options.forceStart ?? false);
          if (!decision.start) throw new FsError('EPERM', decision.message);
        },
      });
      if (taken === undefined) throw new FsError('ECANCELED', 'nothing was taken');
      await listening;
      await this.#serve(program, server, taken, multiMount);
    } catch (error) {
      await server.stop();
      multiMount.abandon();
      program.end('exit');
      throw error;
    }
    return server;
  }

  /** The process is gone: its kernel closes what it had open. Or the machine's power is. */
  crash(how: Exclude<HowEnded, 'exit'> = 'kill'): void {
    this.#say(how === 'power' ? 'loses its power' : 'is killed');
    if (how === 'power') this.machine.powerOff();
    else this.#program?.end('kill');
  }

  /** Nothing is committed from now on; the server goes on answering. */
  hold(): void {
    this.#say('commits nothing from now on');
    this.program?.faults.add('commit.hold');
  }

  #begin(options: StartOptions): { program: Program; server: Server } {
    if (this.program !== undefined) throw new FsError('EBUSY', `${this.name} runs already`);
    this.version = options.version ?? this.version;
    this.build = options.build ?? this.build;
    if (!this.machine.hasPower) this.machine.powerOn();
    const program = this.machine.run('server');
    this.#say(`starts version ${this.version}`);
    const server = createServer(program.runtime(), {
      plain: { from: [new AddressRange('10.0.0.0/8')] },
      ...this.#settings,
      listen: this.address,
      softwareVersion: this.version,
      forceStart: options.forceStart,
      onState: (text) => this.#say(text),
    });
    this.#program = program;
    this.#server = server;
    this.#store = undefined;
    return { program, server };
  }

  /** Both devices, and the port for who does not stand by. */
  async #open(program: Program, server: Server | undefined): Promise<ExclusiveDevices> {
    const data = this.#disks.data.open(program);
    try {
      await server?.listen();
    } catch (error) {
      await data.close();
      throw error;
    }
    return {
      data,
      metaPath: 'meta',
      metaSizeBytes: this.#disks.meta.sizeBytes,
      runtimeDir: 'none',
      metaMedium: this.#disks.meta.medium(program),
      dropCaches: async () => undefined,
      close: () => data.close(),
    };
  }

  async #serve(
    program: Program,
    server: Server,
    { store, devices }: TakenTarget<ExclusiveDevices>,
    multiMount: MultiMount,
  ): Promise<void> {
    this.#store = store;
    await server.activate(store);
    this.#watchEvictions(server);
    void server.closed.then(async () => {
      await devices.close();
      await multiMount
        .release()
        .catch((error: unknown) => this.#say(`gives the target up: ${String(error)}`));
      this.#say(server.failure === undefined ? 'has stopped' : `has failed: ${server.failure.message}`);
      program.end('exit');
    });
  }

  #watchEvictions(server: Server): void {
    const exports = server.target?.exports;
    if (exports === undefined) return;
    for (const { name, reason } of exports.evicted()) this.onEviction(name, reason);
    const remember = exports.rememberEvicted.bind(exports);
    exports.rememberEvicted = (uuid, name, reason) => {
      this.onEviction(name, reason);
      remember(uuid, name, reason);
    };
  }

  async #untilFree<T>(program: Program, attempt: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await attempt();
      } catch (thrown) {
        if (!(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
      }
      await this.machine.scheduler.sleep(PORT_POLL_MS, program);
    }
  }

  #say(text: string): void {
    this.machine.scheduler.trace.say(this.name, text);
  }
}
