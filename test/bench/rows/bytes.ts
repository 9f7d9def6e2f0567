/** Rows with bytes: one large file, and small pieces of it. */

import { rmSync } from 'node:fs';
import type { Place } from '../place.js';
import type { Drop, Row, Sample } from '../row.js';

const GROUP = 'bytes';
const COLD_PIECES = 1000;
const WARM_PIECES = 50_000;
const WRITTEN_PIECES = 5000;
const SYNCS = 200;
/** Long enough for a rate of cached calls. */
const SECONDS = '1';

/** The file that the rows share. */
function stream(at: Place): Promise<string> {
  return at.once('stream', (path) => at.tool('write', path, String(at.sizes.fileMib)));
}

async function readAll(at: Place, kib = '1024'): Promise<Sample> {
  return at.mibRate('read', await stream(at), kib);
}

/** A run before the one that counts, so that whatever can be cached is. */
function warmed(run: Row['run']): Pick<Row, 'prepare' | 'run'> {
  return {
    prepare: async (at) => {
      await run(at);
    },
    run,
  };
}

function reads(drop: Drop, name: string): Row {
  return {
    name: `sequential read, ${name}`,
    unit: 'MiB/s',
    better: 'higher',
    group: GROUP,
    drop,
    prepare: async (at) => {
      const path = await stream(at);
      // Otherwise the server has not cached it: what it wrote need not be what it keeps.
      if (drop === 'client') await at.tool('read', path);
      // What a hypervisor took of the memory that was free comes back now, not while the clock runs.
      await at.tool('touch', String(3 * at.sizes.fileMib));
    },
    run: readAll,
  };
}

function syncs(name: string, of: 'p50Us' | 'p99Us'): Row {
  return {
    name: `write 4 KiB + fsync, ${name}`,
    unit: 'us',
    better: 'lower',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => {
      const printed = await at.tool('syncs', at.path('synced'), at.count(SYNCS));
      return { value: printed[of], operations: printed.amount };
    },
  };
}

export const BYTES_ROWS: readonly Row[] = [
  {
    name: 'sequential write + fsync',
    unit: 'MiB/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => rmSync(at.path('written'), { force: true }),
    run: (at) => at.mibRate('write', at.path('written'), String(at.sizes.fileMib)),
  },
  reads('all', 'cold'),
  reads('client', 'client cold'),
  {
    name: 'sequential read, warm, 1 MiB at a time',
    unit: 'MiB/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    ...warmed((at) => readAll(at)),
  },
  {
    name: 'sequential read, warm, 16 KiB at a time',
    unit: 'MiB/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    ...warmed((at) => readAll(at, '16')),
  },
  {
    name: 'random read 4 KiB, cold',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'all',
    prepare: async (at) => {
      await stream(at);
    },
    run: async (at) => at.rate('random', 'read', await stream(at), at.count(COLD_PIECES)),
  },
  {
    name: 'random read 4 KiB, warm',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => {
      await readAll(at);
    },
    run: async (at) => at.rate('random', 'read', await stream(at), at.count(WARM_PIECES)),
  },
  {
    name: 'random write 4 KiB, fsync at the end',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    prepare: async (at) => {
      await stream(at);
    },
    run: async (at) => at.rate('random', 'write', await stream(at), at.count(WRITTEN_PIECES)),
  },
  syncs('p50', 'p50Us'),
  syncs('p99', 'p99Us'),
  {
    name: 'stat of one file, cached',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => at.rate('stat', await stream(at), SECONDS),
  },
  {
    name: 'GETATTR, four processes',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    run: async (at) => at.rate('fstat', await stream(at), SECONDS, '4'),
  },
];
