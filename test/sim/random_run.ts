/**
 * One random run: some clients, processes and kinds of faults, all chosen by the seed. It ends when every process has done
 * its work; then the faults end, everything is looked at once more through a fresh mount, everybody leaves, and nothing
 * may be left of anybody.
 */

import type { FaultPoint } from '../../src/runtime/ports.js';
import { watchLocks } from './checkers.js';
import type { ClientNode } from './client_node.js';
import { FAULT_KINDS, type FaultKind, Faults } from './faults.js';
import type { Process } from './file_calls.js';
import { FillWorker } from './fill_worker.js';
import { judgeEnd } from './judge_end.js';
import { OrderWorker } from './order_worker.js';
import { SimRng } from './rng.js';
import {
  Appends,
  AppendWorker,
  ExclusiveWorker,
  judgeAppends,
  Register,
  RegisterWorker,
  Section,
  SectionWorker,
  SLOTS,
} from './shared_workers.js';
import { ShelfWorker, Shelves } from './shelf_worker.js';
import { TreeWorker } from './tree_worker.js';
import { LATER_BUILD, RELEASE_0_1 } from './versions.js';
import type { Worker } from './worker.js';
import { type Images, makeImages, simulate, type World, type WorldOptions } from './world.js';

export interface RunOptions {
  readonly seed: number;
  readonly images?: Images | undefined;
  /** Only these kinds of faults. */
  readonly kinds?: readonly FaultKind[] | undefined;
  readonly echo?: ((line: string) => void) | undefined;
}

export interface RunResult {
  readonly seed: number;
  readonly operations: number;
  readonly events: number;
  readonly virtualMs: number;
  readonly digest: number;
  readonly faults: ReadonlyMap<FaultKind, number>;
  readonly disturbed: number;
  readonly failure: Error | undefined;
  readonly timeline: readonly string[];
}

/** Virtual time in which a run whose faults are over must come to its end. */
const END_MS = 400_000;
const LIMIT_MS = 3_600_000;

/** What a run is made of. */
export interface Script {
  readonly world: WorldOptions;
  /** Those that have been started. */
  readonly workers: readonly Worker[];
  faults(): Faults | undefined;
  prepare(world: World): void;
  play(world: World): Promise<void>;
}

/** Plays, and says what came of it. */
export async function recorded(options: RunOptions, script: Script): Promise<RunResult> {
  const { workers } = script;
  let seen: World | undefined;
  let failure: Error | undefined;
  // A promise that nobody waited for: a bug, wherever it was.
  const unheard = (reason: unknown): void => {
    seen?.violated(`an unhandled rejection: ${reason instanceof Error ? reason.stack : String(reason)}`);
  };
  process.on('unhandledRejection', unheard);
  try {
    await simulate(script.world, script.play, (world) => {
      seen = world;
      world.scheduler.trace.echo = options.echo;
      script.prepare(world);
    });
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error));
  } finally {
    process.off('unhandledRejection', unheard);
  }
  const scheduler = seen?.scheduler;
  const waiting = workers
    .filter(({ state }) => state === 'working')
    .map(({ name, doing, node }) => `${name} on ${node.name}: ${doing}`);
  return {
    seed: options.seed,
    operations: workers.reduce((sum, worker) => sum + worker.operations, 0),
    events: scheduler?.events ?? 0,
    virtualMs: scheduler?.nowMs ?? 0,
    digest: scheduler?.trace.digest ?? 0,
    faults: script.faults()?.counts ?? new Map(),
    disturbed: workers.filter(({ state }) => state === 'disturbed').length,
    failure,
    timeline: [...(scheduler?.trace.last(60) ?? []), ...waiting],
  };
}

export async function randomRun(options: RunOptions): Promise<RunResult> {
  const rng = new SimRng(options.seed).fork('plan');
  const images = options.images ?? (await makeImages());
  // Now and then all that everybody does is to fill a small filesystem.
  const isFull = rng.chance(0.05);
  // In others the server checks what each caller may do, and all of them are nobody.
  const squashed = !isFull && rng.chance(0.25) ? images.squashed : undefined;
  const kinds = options.kinds ?? FAULT_KINDS.filter(() => rng.chance(0.35));
  let faults: Faults | undefined;
  const workers: Worker[] = [];
  return await recorded(options, {
    world: {
      seed: options.seed,
      clients: rng.between(1, 3),
      servers: rng.between(1, 2),
      image: isFull ? images.small : (squashed?.disks ?? images.usual),
      credentials: squashed?.credentials,
      limitMs: LIMIT_MS,
    },
    workers,
    faults: () => faults,
    prepare: (world) => {
      for (const { machine } of [...world.servers, ...world.clients]) {
        machine.clockRate = 1 + (rng.fraction() - 0.5) * 0.02;
        machine.skewMs = rng.between(0, 2000);
      }
      world.network.baseDelayMs = rng.pick([0.02, 0.1, 1]);
      for (const client of world.clients) {
        client.maxLocks = rng.pick([undefined, undefined, 8, 40]);
        client.syncMetadata = rng.chance(0.5);
        // Earlier releases know neither keys nor tickets.
        if (squashed === undefined && rng.chance(0.08)) client.build = rng.pick([RELEASE_0_1, LATER_BUILD]);
      }
      // Steps that follow each other at once, or with time for others, and for faults, in between.
      for (const { machine } of world.servers) machine.turnMs = rng.chance(0.15) ? rng.fraction() * 3 : 0;
      strikeAtRandom(world, rng);
    },
    play: async (world) => {
      faults = new Faults(world, world.rng.fork('faults'), kinds);
      await play(world, faults, rng, workers, usualCast(world, rng, isFull));
    },
  });
}

/** Places in the product where something that is rare otherwise happens often. */
const POINTS = ['grant.refuse', 'space.refuse', 'fids.few'] as const;

function strikeAtRandom(world: World, rng: SimRng): void {
  const chances = new Map<FaultPoint, number>(
    POINTS.map((point) => [point, rng.chance(0.2) ? rng.fraction() : 0]),
  );
  for (const { machine } of world.servers) {
    const dice = machine.rng.fork('faults');
    machine.strikes = (point) => {
      const chance = chances.get(point) ?? 0;
      return chance > 0 && dice.chance(chance);
    };
  }
}

interface Shared {
  readonly registers: readonly Register[];
  readonly section: Section;
  readonly appends: Appends;
  readonly holders: Set<ExclusiveWorker>;
  readonly orders: OrderWorker[];
  readonly shelves: Shelves;
}

/** Who plays. */
export interface Cast {
  make(client: ClientNode, name: string): Worker;
  /** With a process on a fresh mount, when everybody else has left. */
  atEnd(process: Process): Promise<void>;
}

function usualCast(world: World, rng: SimRng, isFull: boolean): Cast {
  const shared: Shared = {
    registers: Array.from({ length: SLOTS }, () => new Register()),
    section: new Section(),
    appends: new Appends(),
    holders: new Set(),
    orders: [],
    shelves: new Shelves(),
  };
  return {
    make: (client, name) =>
      isFull
        ? new FillWorker(world, client, name, rng.between(5, 30))
        : makeWorker(world, client, name, rng, shared),
    atEnd: async (process) => {
      for (const worker of shared.orders) {
        const wrong = await worker.judge(process);
        if (wrong !== undefined) world.violated(`at the end: ${wrong}`);
      }
      const file = await process.open('/appends', 0).catch(() => undefined);
      if (file === undefined) return;
      const wrong = judgeAppends(await process.pread(file, 0, 1 << 20), shared.appends);
      if (wrong !== undefined) world.violated(`/appends: ${wrong}`);
      await process.close(file);
    },
  };
}

export async function play(
  world: World,
  faults: Faults,
  rng: SimRng,
  workers: Worker[],
  cast: Cast,
): Promise<void> {
  const running = new Map<Worker, Promise<void>>();
  const start = (client: ClientNode): void => {
    const count = rng.between(1, 3);
    for (let index = 0; index < count; index++) {
      const name = `w${workers.length}`;
      const worker = cast.make(client, name);
      workers.push(worker);
      running.set(
        worker,
        worker.run().finally(() => running.delete(worker)),
      );
    }
  };
  faults.workers = () => workers;
  faults.onMounted = start;
  faults.beforeUnmount = async (client) => {
    const there = [...running].filter(([worker]) => worker.node === client);
    for (const [worker] of there) worker.stop();
    await Promise.all(there.map(([, ended]) => ended));
  };
  for (const client of world.clients) start(client);
  const striking = faults.run(rng.pick([30, 100, 400, 2000]));
  let isOver = false;
  const watching = watchLocks(world, () => isOver);
  await world.sleep(rng.between(300, 4000));
  await faults.end();
  await striking;
  const endsByMs = world.scheduler.nowMs + END_MS;
  for (const worker of running.keys()) worker.stop();
  await world.until(() => running.size === 0 || world.scheduler.nowMs > endsByMs);
  isOver = true;
  await watching;
  for (const worker of running.keys()) {
    world.violated(`${worker.name} on ${worker.node.name} is blocked for ever: ${worker.doing}`);
  }
  if (running.size > 0) return;
  await judgeEnd(world, workers, cast.atEnd);
}

function makeWorker(world: World, client: ClientNode, name: string, rng: SimRng, shared: Shared): Worker {
  const count = rng.between(10, 150);
  switch (rng.weighted({ tree: 5, register: 2, section: 2, append: 2, exclusive: 1, order: 2, shelf: 4 })) {
    case 'tree':
      return new TreeWorker(world, client, name, count);
    case 'register':
      return new RegisterWorker(world, client, name, shared.registers, count);
    case 'section':
      return new SectionWorker(world, client, name, shared.section, count);
    case 'append':
      return new AppendWorker(world, client, name, shared.appends, count);
    case 'order': {
      const worker = new OrderWorker(world, client, name, count);
      shared.orders.push(worker);
      return worker;
    }
    case 'shelf':
      // Its files have modes that shut their owner out.
      if (world.isSquashed) return new TreeWorker(world, client, name, count);
      return new ShelfWorker(world, client, name, shared.shelves, 3 * count);
    case 'exclusive':
      return new ExclusiveWorker(world, client, name, shared.holders, count);
  }
}
