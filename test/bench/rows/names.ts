/** Rows with names: many small files, and directories. */

import { mkdirSync } from 'node:fs';
import type { Place } from '../place.js';
import type { Drop, Row } from '../row.js';

const GROUP = 'names';
const FILES = 4000;
const CREATED = 3000;
const CREATED_BY_EACH = 1000;
const FOLDERS = 1000;
const ALTERNATED = 200;
const PING_PONGS = 200;
const FILE_BYTES = '1024';

/** FILES files of 1 KiB that the rows share. */
function names(at: Place): Promise<string> {
  return at.once('names', async (path) => {
    await at.run('mkdir', path);
    await at.tool('create', path, at.count(FILES), FILE_BYTES);
  });
}

async function freshFolder(at: Place, kind: string): Promise<string> {
  const path = at.fresh(kind);
  mkdirSync(path);
  return path;
}

/** Looks at all files of names(), in a cold cache or a warm one. */
function looks(name: string, drop: Drop, ...args: string[]): Row {
  const row = {
    name,
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop,
  } as const;
  const run: Row['run'] = async (at) => {
    const path = await names(at);
    const [how = '', ...rest] = args;
    return how === 'list' ? at.rate(how, path, ...rest) : at.rate(how, ...rest, path, at.count(FILES));
  };
  return {
    ...row,
    // Before cold runs too: it makes the files, and fills the caches that are not dropped.
    prepare: async (at) => {
      if (drop === 'all') await names(at);
      else await run(at);
    },
    run,
  };
}

export const NAMES_ROWS: readonly Row[] = [
  {
    name: 'create 1 KiB, one process',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => at.rate('create', await freshFolder(at, 'created'), at.count(CREATED), FILE_BYTES),
  },
  {
    name: 'create 1 KiB, four processes',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => {
      const folder = await freshFolder(at, 'spread');
      return at.rate('spread', at.count(CREATED_BY_EACH), FILE_BYTES, folder, folder, folder, folder);
    },
  },
  looks('stat, cold', 'all', 'names', 'stat'),
  looks('stat, client cold', 'client', 'names', 'stat'),
  looks('stat, warm', 'nothing', 'names', 'stat'),
  looks('readdir + stat, cold', 'all', 'list', 'stat'),
  looks('open + read + close, cold', 'all', 'names', 'read'),
  looks('open + read + close, client cold', 'client', 'names', 'read'),
  looks('open + read + close, warm', 'nothing', 'names', 'read'),
  {
    name: 'rename',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => {
      await names(at);
    },
    run: async (at) => at.rate('names', 'rename', await names(at), at.count(FILES / 2)),
  },
  {
    name: 'unlink',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => {
      if (at.lookKept('created') !== undefined) return;
      await at.tool('create', await freshFolder(at, 'created'), at.count(CREATED), FILE_BYTES);
    },
    run: (at) => at.rate('names', 'unlink', at.takeKept('created') ?? '', at.count(CREATED)),
  },
  {
    name: 'mkdir + rmdir',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => at.rate('names', 'mkdir', await freshFolder(at, 'folders'), at.count(FOLDERS)),
  },
  {
    name: 'hard link',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => {
      await names(at);
    },
    run: async (at) => at.rate('names', 'link', await names(at), at.count(FILES / 2)),
  },
  {
    name: 'creates in turn on two mounts, p50',
    unit: 'ms',
    better: 'lower',
    group: 'two mounts',
    drop: 'nothing',
    mounts: 2,
    run: async (at) => {
      const folder = await freshFolder(at, 'turns');
      const other = at.through(1, folder);
      const { amount, p50Us } = await at.tool('alternate', folder, other, at.count(ALTERNATED));
      return { value: p50Us / 1000, operations: amount };
    },
  },
  {
    name: 'ping-pong of one page, p50',
    unit: 'ms',
    better: 'lower',
    group: 'two mounts',
    drop: 'nothing',
    mounts: 2,
    run: async (at) => {
      const path = at.fresh('page');
      const { amount, p50Us } = await at.tool('pingpong', path, at.through(1, path), at.count(PING_PONGS));
      return { value: p50Us / 1000, operations: amount };
    },
  },
];
