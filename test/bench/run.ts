/**
 * npm run bench: Holdfast against ext4 on the same loop device, in one run. Both sides of Holdfast are on this machine.
 *   node dist/test/bench/run.js [--size MiB] [--files N] [--stream GiB] [--json]
 * Figures are medians where a measurement repeats; ratios are the point, absolute numbers belong to the machine.
 */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../native/binding.js';
import { type Child, runCommand, startUntilLine } from '../../src/cli/demo/process.js';
import { atLeast, atMost, type Figure, middle, option, printFigures, sh } from './figures.js';

const MIB = 1 << 20;
// Of the tree that this file was built into, whatever its name.
const main = fileURLToPath(new URL('../../bin/main.js', import.meta.url));
const source = join(packageRoot(), 'test', 'bench', 'syscalls.c');
const mixedLoad = join(packageRoot(), 'test', 'bench', 'mixed_load.py');

interface Options {
  readonly sizeMib: number;
  readonly files: number;
  readonly streamGib: number;
}

/** Amount a second of one run of the C program. */
function rate(tool: string, ...args: string[]): number {
  const [amount = 0, seconds = 1] = sh(tool, ...args)
    .split(' ')
    .map(Number);
  return amount / seconds;
}

function median(run: () => number, times = 3): number {
  return middle(Array.from({ length: times }, run));
}

function dropCaches(): void {
  sh('sync');
  writeFileSync('/proc/sys/vm/drop_caches', '3');
}

/** Kilobytes of a field of /proc/PID/status. */
function memoryKib(pid: number, field: string): number {
  const line = readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`^${field}:\\s+(\\d+)`, 'm'));
  return Number(line?.[1] ?? 0);
}

interface Rates {
  write: number;
  coldRead: number;
  warmRead: number;
  /** In pieces of 16 KiB. */
  warmReadSmall: number;
  stat: number;
}

/** @param cold empties every cache between server and application. */
async function measure(
  tool: string,
  folder: string,
  sizeMib: number,
  cold: () => Promise<void>,
): Promise<Rates> {
  const file = join(folder, 'stream');
  const writes: number[] = [];
  for (let run = 0; run < 3; run++) writes.push(rate(tool, 'write', file, String(sizeMib)));
  const reads: number[] = [];
  for (let run = 0; run < 3; run++) {
    await cold();
    dropCaches();
    // What a hypervisor took of the memory that was free comes back now, not while the clock runs.
    rate(tool, 'touch', String(3 * sizeMib));
    reads.push(rate(tool, 'read', file));
  }
  // What the cold reads left out of the page cache, reclaimed meanwhile or not, is there before the warm ones.
  rate(tool, 'read', file);
  return {
    write: middle(writes),
    coldRead: middle(reads),
    warmRead: median(() => rate(tool, 'read', file)),
    warmReadSmall: median(() => rate(tool, 'read', file, '16')),
    stat: median(() => rate(tool, 'stat', file, '1')),
  };
}

async function measureExt4(tool: string, device: string, folder: string, options: Options): Promise<Rates> {
  const mountpoint = join(folder, 'ext4');
  mkdirSync(mountpoint);
  const loop = sh('losetup', '--find', '--show', device);
  try {
    sh('mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', loop);
    sh('mount', loop, mountpoint);
    try {
      return await measure(tool, mountpoint, options.sizeMib, async () => {
        sh('umount', mountpoint);
        sh('mount', loop, mountpoint);
      });
    } finally {
      sh('umount', mountpoint);
    }
  } finally {
    sh('losetup', '-d', loop);
  }
}

async function startServer(
  devices: readonly string[],
  address: string,
): Promise<{ child: Child; address: string; ms: number }> {
  const [meta = '', data = ''] = devices;
  const before = performance.now();
  const { child, ready } = startUntilLine(
    'serve',
    main,
    ['serve', '--meta', meta, '--data', data, '--listen', address],
    /^holdfast: serving \S+ on (\S+),/,
  );
  const match = await ready;
  return { child, address: match[1] ?? '', ms: performance.now() - before };
}

async function stopServer(child: Child): Promise<void> {
  child.process.kill('SIGTERM');
  const { code } = await child.exited;
  if (code !== 0) throw new Error(`shutdown failed: ${child.stderrTail()}`);
}

async function measureHoldfast(
  tool: string,
  devices: readonly string[],
  folder: string,
  options: Options,
  ext4: Rates,
): Promise<Figure[]> {
  const figures: Figure[] = [];
  const ratio = (name: string, unit: string, ours: number, theirs: number, goal: number): void => {
    figures.push({
      name,
      unit,
      holdfast: ours,
      ext4: theirs,
      goal: `${goal} of ext4`,
      met: ours >= goal * theirs,
    });
  };
  const limit = (name: string, unit: string, value: number, most: number): void => {
    figures.push(atMost(name, unit, value, most));
  };
  const least = (name: string, unit: string, value: number, bound: number): void => {
    figures.push(atLeast(name, unit, value, bound));
  };
  await runCommand('mkfs', main, [
    'mkfs',
    '--meta',
    devices[0] ?? '',
    '--data',
    devices[1] ?? '',
    '--force',
    '--label',
    'bench',
  ]);
  let server = await startServer(devices, '127.0.0.1:0');
  const mountpoint = join(folder, 'holdfast');
  mkdirSync(mountpoint);
  let mountMs = 0;
  let client: Child | undefined;
  const mount = async (): Promise<void> => {
    const before = performance.now();
    const started = startUntilLine(
      'mount',
      main,
      ['mount', server.address, mountpoint, '--foreground'],
      /^holdfast: mounted/,
    );
    client = started.child;
    await started.ready;
    mountMs = performance.now() - before;
  };
  const umount = async (): Promise<void> => {
    await runCommand('umount', main, ['umount', mountpoint]);
    await client?.exited;
  };
  try {
    await mount();
    const rates = await measure(tool, mountpoint, options.sizeMib, async () => {
      await umount();
      await stopServer(server.child);
      server = await startServer(devices, server.address);
      await mount();
    });
    const perMib = (bytes: number): number => bytes / MIB;
    ratio('sequential write + fsync', 'MiB/s', perMib(rates.write), perMib(ext4.write), 0.5);
    ratio('cold sequential read', 'MiB/s', perMib(rates.coldRead), perMib(ext4.coldRead), 0.5);
    ratio(
      'warm sequential read, 1 MiB at a time',
      'MiB/s',
      perMib(rates.warmRead),
      perMib(ext4.warmRead),
      0.8,
    );
    const [small, small4] = [perMib(rates.warmReadSmall), perMib(ext4.warmReadSmall)];
    ratio('warm sequential read, 16 KiB at a time', 'MiB/s', small, small4, 0.8);
    ratio('cached stat', '/s', rates.stat, ext4.stat, 0.8);
    if (options.streamGib > 0) {
      const rate8 = rate(tool, 'write', join(mountpoint, 'big'), String(options.streamGib * 1024), 'nosync');
      rate(tool, 'read', join(mountpoint, 'big'));
      const kib = memoryKib(client?.process.pid ?? 0, 'VmHWM');
      limit(
        `client memory, ${options.streamGib} GiB streamed (${Math.round(rate8 / MIB)} MiB/s)`,
        'MiB',
        kib / 1024,
        256 + 200,
      );
      sh('rm', join(mountpoint, 'big'));
    }
    let folders = 0;
    const create = (): number => {
      const names = join(mountpoint, `create-${++folders}`);
      sh('mkdir', names);
      return rate(tool, 'create', names, '10000', '1024');
    };
    least('create of 1 KiB files, one process', '/s', median(create), 2000);
    least(
      'GETATTR without RPC, four processes',
      '/s',
      median(() => rate(tool, 'fstat', join(mountpoint, 'stream'), '2', '4')),
      60_000,
    );
    if (options.files > 0) {
      for (let folderNumber = 0; folderNumber * 10_000 < options.files; folderNumber++) {
        const each = join(mountpoint, `many-${folderNumber}`);
        sh('mkdir', each);
        rate(tool, 'create', each, '10000', '0');
      }
      limit(
        `server memory (RssAnon), ${options.files} files`,
        'MiB',
        memoryKib(server.child.process.pid ?? 0, 'RssAnon') / 1024,
        400,
      );
    }
    await umount();
    await mount();
    limit('mount', 'ms', mountMs, 500);
    sh('python3', mixedLoad, join(mountpoint, 'create-1'));
    limit(
      'client memory, small, cut and large files, mappings',
      'MiB',
      memoryKib(client?.process.pid ?? 0, 'VmHWM') / 1024,
      256 + 200,
    );
    await umount();
    await stopServer(server.child);
    server = await startServer(devices, server.address);
    limit('start of a cleanly stopped server', 'ms', server.ms, 500);
    await stopServer(server.child);
  } catch (thrown) {
    if (client?.process.exitCode === null) {
      await runCommand('umount', main, ['umount', '--force', mountpoint]).catch(() => undefined);
      client.process.kill('SIGKILL');
    }
    if (server.child.process.exitCode === null) server.child.process.kill('SIGKILL');
    throw thrown;
  }
  return figures;
}

async function bench(): Promise<void> {
  const options: Options = {
    sizeMib: option('size', 1024),
    files: option('files', 200_000),
    streamGib: option('stream', 8),
  };
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'));
  try {
    const tool = join(folder, 'syscalls');
    sh('cc', '-O2', '-o', tool, source);
    const devices = [join(folder, 'meta.img'), join(folder, 'data.img')];
    const dataMib = Math.max(options.sizeMib * 3, (options.streamGib + 1) * 1024) + 1024;
    for (const [path, mib] of [
      [devices[0] ?? '', 2048],
      [devices[1] ?? '', dataMib],
    ] as const) {
      writeFileSync(path, '');
      truncateSync(path, mib * MIB);
      statSync(path);
    }
    const ext4 = await measureExt4(tool, devices[1] ?? '', folder, options);
    const figures = await measureHoldfast(tool, devices, folder, options, ext4);
    printFigures(figures, options, `stream of ${options.sizeMib} MiB`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bench();
