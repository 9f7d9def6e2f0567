/**
 * Machines and the programs on them. A machine has a name in the network and a clock that runs a little wrong; a program
 * is one process of ours (a server or a client), and the Runtime that it gets.
 *
 * A program ends by exit (in order), by kill (the kernel closes its sockets and devices: peers are told) or with its
 * machine's power (nobody is told, and what devices had not made durable may be gone). Whatever it was waiting for never
 * comes: its ports are dead, so its promises stay as they are.
 */

import { nodeChecksum } from '../../src/runtime/node_checksum.js';
import { nodeMac } from '../../src/runtime/node_mac.js';
import { type FaultPoint, NO_METRICS, NO_WAITS, type Runtime } from '../../src/runtime/ports.js';
import type { SimNetwork } from './network.js';
import type { SimRng } from './rng.js';
import type { Owner, Scheduler } from './scheduler.js';

/** The simulation begins at this time of day. */
const EPOCH_SEC = 1_700_000_000;

export type HowEnded = 'exit' | 'kill' | 'power';

export class Program implements Owner {
  readonly machine: Machine;
  readonly name: string;
  /** As the machine counts its programs. */
  readonly pid: number;
  alive = true;
  stoppedUntilMs = 0;
  /** Fault points that strike now. */
  readonly faults = new Set<FaultPoint>();
  readonly #endings: ((how: HowEnded) => void)[] = [];

  constructor(machine: Machine, name: string) {
    this.machine = machine;
    this.name = name;
    this.pid = machine.nextProgram();
  }

  /** Told in the order in which they asked when the program ends, however it does. */
  onEnd(ending: (how: HowEnded) => void): void {
    this.#endings.push(ending);
  }

  end(how: HowEnded): void {
    if (!this.alive) return;
    this.alive = false;
    this.machine.programs.delete(this);
    for (const ending of this.#endings.splice(0)) ending(how);
  }

  runtime(): Runtime {
    const { machine } = this;
    const { scheduler, network } = machine;
    const rng = machine.rng.fork(`${this.name} ${this.pid}`);
    return {
      faults: { strikes: (point) => this.faults.has(point) || machine.strikes(point) },
      clock: {
        nowMs: () => machine.monotonicMs(),
        wall: () => {
          const ms = machine.wallMs();
          const sec = Math.floor(ms / 1000);
          return { sec: EPOCH_SEC + sec, nsec: Math.floor((ms - sec * 1000) * 1e6) };
        },
      },
      timers: {
        after: (ms, fn) => scheduler.after(ms / machine.clockRate, fn, this),
        soon: (fn) => void scheduler.after(machine.turnMs, fn, this),
      },
      rng: { u32: () => rng.u32(), uuid: () => rng.uuid() },
      transport: network.transport(this),
      metrics: NO_METRICS,
      waits: NO_WAITS,
      checksum: nodeChecksum,
      mac: nodeMac,
    };
  }
}

export class Machine {
  readonly name: string;
  readonly scheduler: Scheduler;
  readonly network: SimNetwork;
  readonly rng: SimRng;
  readonly programs = new Set<Program>();
  /** Its seconds in one of ours. */
  clockRate = 1;
  /** How far its time of day is off. */
  skewMs = 0;
  /** How long its processor takes until what was put off to the next turn has one: what goes in steps is apart by it. */
  turnMs = 0;
  hasPower = true;
  /** Asked at each fault point. */
  strikes: (point: FaultPoint) => boolean = () => false;
  #started = 0;

  constructor(name: string, scheduler: Scheduler, network: SimNetwork, rng: SimRng) {
    this.name = name;
    this.scheduler = scheduler;
    this.network = network;
    this.rng = rng;
  }

  nextProgram(): number {
    this.#started += 1;
    return this.#started;
  }

  monotonicMs(): number {
    return this.scheduler.nowMs * this.clockRate;
  }
  wallMs(): number {
    return this.scheduler.nowMs * this.clockRate + this.skewMs;
  }

  run(name: string): Program {
    const program = new Program(this, name);
    this.programs.add(program);
    return program;
  }

  powerOff(): void {
    this.hasPower = false;
    for (const program of [...this.programs]) program.end('power');
  }
  powerOn(): void {
    this.hasPower = true;
    this.network.changed();
  }
}
