/**
 * The roles of the processes in the demo's workload. Each role makes its files once, runs rounds that check every answer,
 * and at the end verifies everything that it wrote.
 */

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { nativeBinding } from '../../../native/binding.js';
import type { Meter } from './meter.js';

export interface Role {
  step(): void;
  /** Verifies everything. @returns a text for people: what it has verified. */
  finish(): string;
}

type MakeRole = (meter: Meter, folder: string, other: string) => Role;

/** Bytes that say where they belong, so that a check finds wrong, shifted and missing blocks. */
function pattern(seed: number, length: number): Buffer {
  const block = Buffer.alloc(length);
  for (let offset = 0; offset + 8 <= length; offset += 8) {
    block.writeUInt32LE(seed, offset);
    block.writeUInt32LE(offset, offset + 4);
  }
  return block;
}

/** Appends records with O_APPEND; at the end each record is there once, in order. */
const appender: MakeRole = (meter, folder) => {
  const RECORD = 96;
  const path = join(folder, 'appended');
  const fd = meter.call('open', () => openSync(path, 'a'));
  let written = 0;
  const record = (number: number): string =>
    `record ${String(number).padStart(12, '0')} `.padEnd(RECORD - 1, '.').concat('\n');
  return {
    step() {
      const count = meter.call('write', () => writeSync(fd, record(written)));
      meter.check(count === RECORD, `append wrote ${count} of ${RECORD} bytes`);
      written += 1;
      if (written % 64 === 0) meter.call('fsync', () => fsyncSync(fd));
    },
    finish() {
      meter.call('close', () => closeSync(fd));
      const text = meter.call('read', () => readFileSync(path, 'latin1'));
      meter.check(
        text.length === written * RECORD,
        `appended file has ${text.length} bytes, not ${written * RECORD}`,
      );
      for (let number = 0; number < written; number++) {
        if (text.slice(number * RECORD, (number + 1) * RECORD) !== record(number)) {
          meter.fail(`record ${number} is wrong`);
          break;
        }
      }
      return `${written} appended records, each there once`;
    },
  };
};

/** Calls mkdir, create, rename, link, symlink, readdir, stat, unlink, rmdir, and checks every answer. */
const metadata: MakeRole = (meter, folder) => {
  let round = 0;
  return {
    step() {
      const directory = join(folder, `tree-${round}`);
      meter.call('mkdir', () => mkdirSync(directory));
      const first = join(directory, 'first');
      const second = join(directory, 'second');
      meter.call('create', () => writeFileSync(first, `round ${round}`));
      meter.call('rename', () => renameSync(first, second));
      meter.call('link', () => linkSync(second, first));
      meter.call('symlink', () => symlinkSync('second', join(directory, 'link')));
      const names = meter.call('readdir', () => readdirSync(directory)).sort();
      meter.check(names.join() === 'first,link,second', `readdir gave ${names.join()}`);
      meter.check(meter.call('stat', () => statSync(second)).nlink === 2, 'link count is not 2');
      meter.check(
        meter.call('readlink', () => readlinkSync(join(directory, 'link'))) === 'second',
        'link target',
      );
      meter.check(
        meter.call('lstat', () => lstatSync(join(directory, 'link'))).isSymbolicLink(),
        'not a link',
      );
      const text = meter.call('read', () => readFileSync(first, 'utf8'));
      meter.check(text === `round ${round}`, `file holds ${JSON.stringify(text)}`);
      for (const name of names) meter.call('unlink', () => unlinkSync(join(directory, name)));
      meter.call('rmdir', () => rmdirSync(directory));
      round += 1;
    },
    finish() {
      const left = readdirSync(folder).filter((name) => name.startsWith('tree-'));
      meter.check(left.length === 0, `left behind: ${left.join()}`);
      return `${round} rounds of names, none left behind`;
    },
  };
};

/** Holds an unlinked file open, writes and reads it. */
const unlinked: MakeRole = (meter, folder) => {
  const BLOCK = 16_384;
  const BLOCKS = 64;
  const path = join(folder, 'unlinked');
  const fd = meter.call('open', () => openSync(path, 'w+'));
  meter.call('unlink', () => unlinkSync(path));
  const seeds = new Map<number, number>();
  let round = 0;
  const verify = (index: number): void => {
    const found = Buffer.alloc(BLOCK);
    meter.call('read', () => readSync(fd, found, 0, BLOCK, index * BLOCK));
    if (!found.equals(pattern(seeds.get(index) ?? -1, BLOCK)))
      meter.fail(`unlinked file: block ${index} is wrong`);
  };
  return {
    step() {
      const index = (round * 7) % BLOCKS;
      seeds.set(index, round);
      meter.call('write', () => writeSync(fd, pattern(round, BLOCK), 0, BLOCK, index * BLOCK));
      verify(index);
      verify([...seeds.keys()][round % seeds.size] ?? index);
      meter.check(meter.call('fstat', () => fstatSync(fd)).nlink === 0, 'unlinked file has a link');
      round += 1;
    },
    finish() {
      for (const index of seeds.keys()) verify(index);
      meter.call('close', () => closeSync(fd));
      return `an unlinked file of ${seeds.size} blocks, rewritten ${round} times`;
    },
  };
};

/** Holds flock and fcntl locks here; another process tries them through the second mount and must fail. */
const lockHolder: MakeRole = (meter, folder) => {
  const flocked = meter.call('open', () => openSync(join(folder, 'flocked'), 'w+'));
  const ranged = meter.call('open', () => openSync(join(folder, 'ranged'), 'w+'));
  meter.call('flock', () => nativeBinding().flock(flocked, 'exclusive', false));
  meter.call('fcntl lock', () => nativeBinding().lockRange(ranged, 'exclusive', 100, 100, false));
  writeFileSync(join(folder, 'locks-held'), '');
  let round = 0;
  return {
    step() {
      // Locks and unlocks a range beside the one that it holds.
      meter.call('fcntl lock', () => nativeBinding().lockRange(ranged, 'exclusive', 300, 50, false));
      meter.call('fcntl unlock', () => nativeBinding().lockRange(ranged, 'unlock', 300, 50, false));
      round += 1;
    },
    finish() {
      closeSync(flocked);
      closeSync(ranged);
      return `flock and fcntl locks held throughout, ${round} others taken and given`;
    },
  };
};

function refused(run: () => void): boolean {
  try {
    run();
    return false;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'EAGAIN') throw thrown;
    return true;
  }
}

const lockContender: MakeRole = (meter, folder) => {
  const flocked = meter.call('open', () => openSync(join(folder, 'flocked'), 'r+'));
  const ranged = meter.call('open', () => openSync(join(folder, 'ranged'), 'r+'));
  let round = 0;
  return {
    step() {
      const first = meter.call('flock', () =>
        refused(() => nativeBinding().flock(flocked, 'exclusive', false)),
      );
      meter.check(first, 'got an flock that another process holds');
      const second = meter.call('fcntl lock', () =>
        refused(() => nativeBinding().lockRange(ranged, 'shared', 150, 10, false)),
      );
      meter.check(second, 'got an fcntl lock that another process holds');
      round += 1;
    },
    finish() {
      closeSync(flocked);
      closeSync(ranged);
      return `${round * 2} attempts on locks held elsewhere, all refused`;
    },
  };
};

/** Maps a file shared, reads all of it through the mapping, and changes a page that the next round finds. */
const mapper: MakeRole = (meter, folder) => {
  const PAGES = 256;
  const PAGE = 4096;
  const path = join(folder, 'mapped');
  const fd = meter.call('open', () => openSync(path, 'w+'));
  const versions = new Array<number>(PAGES).fill(0);
  for (let page = 0; page < PAGES; page++)
    meter.call('write', () => writeSync(fd, pattern(0, PAGE), 0, PAGE, page * PAGE));
  let round = 0;
  return {
    step() {
      round += 1;
      const page = (round * 13) % PAGES;
      const map = meter.call('mmap', () => nativeBinding().map(fd, PAGES * PAGE));
      try {
        const content = meter.call('page faults', () => map.read(0, PAGES * PAGE));
        for (let index = 0; index < PAGES; index++) {
          if (
            !content.subarray(index * PAGE, (index + 1) * PAGE).equals(pattern(versions[index] ?? 0, PAGE))
          ) {
            meter.fail(`mapped page ${index} is wrong`);
            return;
          }
        }
        meter.call('page fault', () => map.write(page * PAGE, pattern(round, PAGE)));
        versions[page] = round;
        if (round % 8 === 0) meter.call('msync', () => map.sync());
      } finally {
        map.unmap();
      }
    },
    finish() {
      meter.call('close', () => closeSync(fd));
      const content = readFileSync(path);
      for (let index = 0; index < PAGES; index++) {
        const good = content
          .subarray(index * PAGE, (index + 1) * PAGE)
          .equals(pattern(versions[index] ?? 0, PAGE));
        if (!good) meter.fail(`mapped page ${index} is wrong at the end`);
      }
      return `${PAGES} mapped pages read ${round} times and changed through the mapping`;
    },
  };
};

/** Writes larger files, reads them back through the other mount. */
const streamer: MakeRole = (meter, folder, other) => {
  const BLOCK = 1 << 20;
  const BLOCKS = 8;
  let round = 0;
  return {
    step() {
      const name = `stream-${round % 3}`;
      const fd = meter.call('open', () =>
        openSync(join(folder, name), constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC),
      );
      for (let block = 0; block < BLOCKS; block++) {
        meter.call('write', () => writeSync(fd, pattern(round * BLOCKS + block, BLOCK)));
      }
      meter.call('close', () => closeSync(fd));
      const reader = meter.call('open', () => openSync(join(other, name), 'r'));
      const found = Buffer.alloc(BLOCK);
      for (let block = 0; block < BLOCKS; block++) {
        const count = meter.call('read', () => readSync(reader, found, 0, BLOCK, null));
        if (count !== BLOCK || !found.equals(pattern(round * BLOCKS + block, BLOCK))) {
          meter.fail(`${name}: block ${block} differs through the other mount`);
        }
      }
      meter.call('close', () => closeSync(reader));
      round += 1;
    },
    finish() {
      return `${round} files of ${BLOCKS} MiB written here and read through the other mount`;
    },
  };
};

/** Stats one file and creates another: the demo interrupts this process while it is blocked. */
const victim: MakeRole = (meter, folder) => ({
  step() {
    meter.call('stat', () => statSync(join(folder, 'appended')));
    meter.call('create', () => closeSync(openSync(join(folder, 'victim'), 'w')));
  },
  finish: () => '',
});

export const ROLES = {
  appender,
  metadata,
  unlinked,
  lockHolder,
  lockContender,
  mapper,
  streamer,
  victim,
} as const;
export type RoleName = keyof typeof ROLES;
