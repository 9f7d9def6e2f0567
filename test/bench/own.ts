/**
 * Figures that only Holdfast has: memory, and how long a mount and a start take. On devices of holes, large enough for what
 * is streamed.
 */

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';
import { atMost, type Figure } from './figures.js';
import { memoryMib } from './memory.js';
import { HoldfastSite } from './peers/holdfast.js';
import type { Site } from './site.js';

const MIXED_LOAD = join(packageRoot(), 'test', 'bench', 'mixed_load.py');
const GIB = 2 ** 30;
const CACHE_MIB = 256;
/** Beside its caches a client may have so much. */
const CLIENT_REST_MIB = 200;
const SERVER_MIB = 400;
const START_MS = 500;
const FILES_IN_A_FOLDER = 10_000;

export const OWN_NAMES = {
  streamed: 'client memory, streamed',
  server: 'server memory (RssAnon), many files',
  mount: 'mount',
  mixed: 'client memory, small, cut and large files, mappings',
  start: 'start of a cleanly stopped server',
} as const;

/** @param files to make for the server's memory, @param streamGib to stream for the client's; 0 leaves a figure out. */
export async function measureOwn(
  site: Site,
  tool: string,
  {
    files,
    streamGib,
    check,
  }: { readonly files: number; readonly streamGib: number; readonly check: () => void },
): Promise<Figure[]> {
  const figures: Figure[] = [];
  const meta = await site.sparseDevice('meta', 2 * GIB);
  const data = await site.sparseDevice('data', (Math.max(streamGib, 3) + 2) * GIB);
  const holdfast = await HoldfastSite.make(site, { meta, data });
  const { mountpoint } = holdfast;
  const run = async (...args: string[]): Promise<string> => {
    check();
    return await site.application(tool, args);
  };
  if (streamGib > 0) {
    const big = join(mountpoint, 'big');
    const [bytes = 0, seconds = 1] = (await run('write', big, String(streamGib * 1024), 'nosync'))
      .split(' ')
      .map(Number);
    await run('read', big);
    const note = `${streamGib} GiB, written at ${Math.round(bytes / seconds / 2 ** 20)} MiB/s`;
    const mib = memoryMib(holdfast.clientPid, 'VmHWM');
    figures.push(atMost(OWN_NAMES.streamed, 'MiB', mib, CACHE_MIB + CLIENT_REST_MIB, note));
    rmSync(big);
  }
  for (let made = 0; made < files; made += FILES_IN_A_FOLDER) {
    const folder = join(mountpoint, `many-${made}`);
    mkdirSync(folder);
    await run('create', folder, String(Math.min(FILES_IN_A_FOLDER, files - made)), '0');
  }
  if (files > 0) {
    const mib = memoryMib(holdfast.serverPid, 'RssAnon');
    figures.push(atMost(OWN_NAMES.server, 'MiB', mib, SERVER_MIB, `${files} files`));
  }
  await holdfast.umount();
  await holdfast.mount(0);
  figures.push(atMost(OWN_NAMES.mount, 'ms', holdfast.mountMs, START_MS));
  const mixed = join(mountpoint, 'mixed');
  mkdirSync(mixed);
  check();
  await site.application('python3', [MIXED_LOAD, mixed]);
  const mixedMib = memoryMib(holdfast.clientPid, 'VmHWM');
  figures.push(atMost(OWN_NAMES.mixed, 'MiB', mixedMib, CACHE_MIB + CLIENT_REST_MIB));
  await holdfast.umount();
  await holdfast.stopServer();
  await holdfast.startServer();
  figures.push(atMost(OWN_NAMES.start, 'ms', holdfast.startMs, START_MS));
  await holdfast.stopServer();
  return figures;
}
