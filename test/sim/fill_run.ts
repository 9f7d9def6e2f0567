/**
 * A run that fills both devices of a tiny target again and again, while servers and clients come, go and die. When the
 * faults are over all files are removed, and the target must be usable again: all blocks are free, as are the pages that
 * fresh devices have, and now and then a fill of it reaches what a fill of fresh devices reaches.
 */

import { assert } from '../../src/base/assert.js';
import type { StatfsMessage } from '../../src/wire/meta.js';
import { type FaultKind, Faults } from './faults.js';
import type { Process } from './file_calls.js';
import { O_CREAT } from './file_calls.js';
import { FillerWorker, isNoSpace, NAME_CHARACTERS, O_RDWR } from './filler_worker.js';
import { play, type RunOptions, type RunResult, recorded } from './random_run.js';
import { SimRng } from './rng.js';
import type { Disks } from './server_node.js';
import type { Worker } from './worker.js';
import { makeImage, simulate, type World } from './world.js';

const META_BYTES = 16 << 20;
const DATA_BYTES = 16 << 20;
const CHUNK_BYTES = 128 << 10;
const XATTR_BYTES = 30_000;
/** What a nearly full target has left. */
const SPARE_FILES = 12;
const SPARE_DATA_BYTES = 2 << 20;
const DATA_PATH = '/data';
/** A second fill reaches this part of the first: records and free pages may lie a little worse. */
const NEARLY = 0.9;
const LIMIT_MS = 3_600_000;
/** A fill takes as long as all the rest of a run. */
const FILLED_AGAIN = 1 / 16;

const KINDS: readonly FaultKind[] = [
  'kill server',
  'server loses power',
  'upgrade',
  'upgrade with standby',
  'hold and kill',
  'kill client',
  'evict client',
  'remount',
  'kill process',
  'forced start',
  'cancel shutdown',
  'cut',
  'slow disk',
];

/** What a target took. */
interface Taken {
  readonly files: number;
  readonly dataBytes: number;
}

export interface FillPlan {
  readonly empty: Disks;
  /** Little is left on either device. */
  readonly nearlyFull: Disks;
  readonly fresh: Taken;
  /** For how many inodes fresh devices have room, as statfs has it. */
  readonly freshInodes: number;
}

export interface FillResult extends RunResult {
  /** Calls by their kind, and those of them that found no room. */
  readonly done: ReadonlyMap<string, number>;
}

/** Tiny devices, and what fits on them. */
export async function makeFillPlan(): Promise<FillPlan> {
  const empty = await makeImage(DATA_BYTES, META_BYTES);
  let fresh: Taken = { files: 0, dataBytes: 0 };
  let freshInodes = 0;
  const { disks } = await simulate({ image: empty, hasManyFiles: true }, async (world) => {
    const process = world.client().process();
    freshInodes = statfs(world).inodesFree;
    fresh = await fillUp(process);
    for (let file = 0; file < SPARE_FILES; file++) await process.unlink(filePath(file));
    await process.truncate(DATA_PATH, fresh.dataBytes - SPARE_DATA_BYTES);
    await world.client().unmount();
    await world.server().server?.shutdown();
    await world.until(() => world.server().program === undefined);
  });
  return { empty, nearlyFull: disks, fresh, freshInodes };
}

export async function fillRun(options: RunOptions, plan: FillPlan): Promise<FillResult> {
  const rng = new SimRng(options.seed).fork('fill plan');
  const kinds = options.kinds ?? KINDS.filter(() => rng.chance(0.5));
  const fillers: FillerWorker[] = [];
  const workers: Worker[] = [];
  let faults: Faults | undefined;
  const result = await recorded(options, {
    world: {
      seed: options.seed,
      clients: rng.between(1, 3),
      servers: rng.between(1, 2),
      image: rng.chance(0.6) ? plan.nearlyFull : plan.empty,
      limitMs: LIMIT_MS,
      hasManyFiles: true,
    },
    workers,
    faults: () => faults,
    prepare: () => undefined,
    play: async (world) => {
      const struck = new Faults(world, world.rng.fork('faults'), kinds);
      faults = struck;
      for (const client of world.clients) client.mayLose = () => struck.counts.has('kill process');
      await play(world, struck, rng, workers, {
        make: (client, name) => {
          const filler = new FillerWorker(world, client, name, rng.between(50, 500));
          fillers.push(filler);
          return filler;
        },
        atEnd: async (process) => {
          await removeAll(process);
          // Inodes stay as long as a kernel refers to them.
          process.kernel.shrink(1);
          await world.until(() => isBlank(world));
          // Pages come free two commits after what frees them.
          for (let commit = 0; commit < 3; commit++) await useAgain(process);
          const { inodesFree } = statfs(world);
          if (inodesFree < NEARLY * plan.freshInodes)
            world.violated(`room for ${inodesFree} inodes is left, ${plan.freshInodes} at first`);
          if (rng.chance(FILLED_AGAIN)) await fillAgain(world, process, plan.fresh);
        },
      });
    },
  });
  const done = new Map<string, number>();
  for (const filler of fillers) {
    for (const [what, count] of filler.done) done.set(what, (done.get(what) ?? 0) + count);
  }
  return { ...result, done };
}

function statfs(world: World): StatfsMessage {
  const store = world.active?.server?.target?.store;
  assert(store !== undefined, 'a server is active');
  return store.statfs();
}

function isBlank(world: World): boolean {
  const { blocks, blocksFree } = statfs(world);
  return blocksFree === blocks;
}

async function fillAgain(world: World, process: Process, fresh: Taken): Promise<void> {
  const again = await fillUp(process);
  // What other clients were promised is not for this one.
  const promised = world.active?.server?.target?.grants.promisedBytes ?? 0;
  for (const what of ['files', 'dataBytes'] as const) {
    const expected = fresh[what] - (what === 'dataBytes' ? promised : 0);
    if (again[what] >= NEARLY * expected) continue;
    world.violated(`a second fill took ${again[what]} ${what}, the first one ${fresh[what]}`);
  }
  await removeAll(process);
}

async function useAgain(process: Process): Promise<void> {
  const file = await process.open('/after', O_CREAT | O_RDWR);
  await process.pwrite(file, 0, Buffer.alloc(CHUNK_BYTES, 1));
  await process.fsync(file);
  await process.close(file);
  await process.unlink('/after');
}

/** Until neither device takes any more: blocks first, then names and xattrs. */
async function fillUp(process: Process): Promise<Taken> {
  const data = await process.open(DATA_PATH, O_CREAT | O_RDWR);
  const chunk = Buffer.alloc(CHUNK_BYTES, 7);
  let dataBytes = 0;
  const chunkFits = async (): Promise<boolean> => {
    const written = await process.pwrite(data, dataBytes, chunk);
    await process.fsync(data);
    dataBytes += written;
    return written === CHUNK_BYTES;
  };
  while (await chunkFits().catch((error: unknown) => !isNoSpace(error)));
  await process.close(data).catch(isNoSpace);
  const value = 'v'.repeat(XATTR_BYTES);
  let files = 0;
  const fileFits = async (): Promise<boolean> => {
    const path = filePath(files);
    await process.close(await process.open(path, O_CREAT | O_RDWR));
    await process.setxattr(path, 'user.x', value);
    files += 1;
    return true;
  };
  while (await fileFits().catch((error: unknown) => !isNoSpace(error)));
  return { files, dataBytes };
}

function filePath(index: number): string {
  return `/${String(index).padEnd(NAME_CHARACTERS, 'f')}`;
}

async function removeAll(process: Process, folder = ''): Promise<void> {
  for (const name of await process.readdir(folder || '/')) {
    const path = `${folder}/${name}`;
    if (/^\/w\d+$/.test(path)) {
      await removeAll(process, path);
      await process.rmdir(path);
    } else {
      await process.unlink(path);
    }
  }
}
