/** Rows with programs that people run. What they begin with is made beforehand (sources.ts); no network is used. */

import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { runOk } from '../../fixtures/child.js';
import { freePort } from '../../fixtures/failover_pair.js';
import type { Place } from '../place.js';
import type { Drop, Program, Row } from '../row.js';

const GROUP = 'programs';
const TRANSACTIONS = 1000;
const DBENCH_SECONDS = '4';
const PGBENCH_SECONDS = '4';
const POSTGRES = '/usr/lib/postgresql';

const program = (command: string, debian = command): Program => ({ command, debian });

function timed(name: string, more: Pick<Row, 'run'> & Partial<Row>): Row {
  return { name, unit: 's', better: 'lower', group: GROUP, drop: 'nothing', ...more };
}

async function extract(at: Place): Promise<string> {
  const folder = at.fresh('extracted');
  await at.run('mkdir', folder);
  await at.run('tar', '-xf', await at.sources.tar(), '-C', folder);
  return folder;
}

async function clone(at: Place): Promise<string> {
  const path = at.fresh('clone');
  await at.run('git', 'clone', '--quiet', '--no-hardlinks', `file://${await at.sources.repository()}`, path);
  return path;
}

function gitStatus(name: string, drop: Drop): Row {
  const status = (at: Place, folder: string): ReturnType<Place['time']> =>
    at.time(at.sources.counts.gitFiles, 'git', '-C', folder, 'status', '--porcelain');
  return timed(name, {
    drop,
    needs: program('git'),
    prepare: async (at) => {
      // The first one writes the index anew: files younger than it have to be compared.
      await status(at, at.lookKept('clone') ?? (await clone(at)));
    },
    run: (at) => status(at, at.lookKept('clone') ?? ''),
  });
}

/** Where the commands of the newest PostgreSQL are. */
function postgresFolder(): string | undefined {
  if (!existsSync(POSTGRES)) return undefined;
  const newest = readdirSync(POSTGRES)
    .map(Number)
    .sort((a, b) => a - b)
    .at(-1);
  const bin = join(POSTGRES, String(newest), 'bin');
  return existsSync(join(bin, 'initdb')) ? bin : undefined;
}

/**
 * PostgreSQL refuses to run as root, and a FUSE mount may refuse all others (passthrough_hp does). So root runs it in a user
 * namespace in which its own number is that of the user postgres.
 */
async function asPostgres(at: Place, command: string, ...args: string[]): Promise<string> {
  const id = async (flag: string): Promise<string> => (await runOk('id', [flag, 'postgres'])).trim();
  const mapped = [`--map-user=${await id('-u')}`, `--map-group=${await id('-g')}`];
  return await at.run('unshare', '--user', ...mapped, command, ...args);
}

/** A cluster on the mount, served for as long as `use` takes. */
async function withPostgres<T>(at: Place, use: (bin: string, socket: string[]) => Promise<T>): Promise<T> {
  const bin = postgresFolder() ?? '';
  const data = await at.once('postgres', async (path) => {
    mkdirSync(path);
    chmodSync(path, 0o700);
    await asPostgres(at, join(bin, 'initdb'), '--pgdata', path, '--auth', 'trust', '--no-sync');
  });
  const port = String(await freePort());
  const settings = `-c listen_addresses=127.0.0.1 -c unix_socket_directories= -p ${port}`;
  const control = (...args: string[]): Promise<string> =>
    asPostgres(at, join(bin, 'pg_ctl'), '--pgdata', data, '--log', join(data, 'log'), '--wait', ...args);
  await control('start', '--options', settings);
  try {
    return await use(bin, ['--host', '127.0.0.1', '--port', port]);
  } finally {
    await control('stop', '--mode', 'fast');
  }
}

/** Numbers that a program prints after these words. */
function numberAfter(text: string, pattern: RegExp): number {
  const match = pattern.exec(text);
  if (match === null) throw new Error(`no ${pattern} in what the program says: ${text.slice(-500)}`);
  return Number(match[1]);
}

export const PROGRAM_ROWS: readonly Row[] = [
  timed('tar x of 5,000 files', {
    prepare: async (at) => {
      await at.sources.tar();
    },
    run: async (at) => {
      const folder = at.fresh('extracted');
      mkdirSync(folder);
      return at.time(at.sources.counts.tarFiles, 'tar', '-xf', await at.sources.tar(), '-C', folder);
    },
  }),
  timed('rm -r of 5,000 files', {
    prepare: async (at) => {
      if (at.lookKept('extracted') === undefined) await extract(at);
    },
    run: (at) => at.time(at.sources.counts.tarFiles, 'rm', '-r', at.takeKept('extracted') ?? ''),
  }),
  timed('git clone', {
    needs: program('git'),
    prepare: async (at) => {
      await at.sources.repository();
    },
    run: async (at) => {
      const url = `file://${await at.sources.repository()}`;
      return at.time(
        at.sources.counts.gitFiles,
        'git',
        'clone',
        '--quiet',
        '--no-hardlinks',
        url,
        at.fresh('clone'),
      );
    },
  }),
  gitStatus('git status', 'nothing'),
  gitStatus('git status, client cold', 'client'),
  timed('npm ci of 200 packages', {
    needs: program('npm'),
    prepare: async (at) => {
      const source = await at.sources.npmProject();
      const folder = at.fresh('npm');
      mkdirSync(folder);
      for (const name of ['package.json', 'package-lock.json'])
        cpSync(join(source, name), join(folder, name));
    },
    run: async (at) => {
      const cache = join(await at.sources.npmProject(), 'cache');
      const quiet = [
        '--offline',
        '--ignore-scripts',
        '--no-audit',
        '--no-fund',
        '--silent',
        '--cache',
        cache,
      ];
      return at.time(
        at.sources.counts.npmPackages,
        'env',
        '-C',
        at.lookKept('npm') ?? '',
        'npm',
        'ci',
        ...quiet,
      );
    },
  }),
  timed('make -j2 of 200 C files', {
    needs: program('make'),
    prepare: async (at) => {
      cpSync(await at.sources.cProject(), at.fresh('c'), { recursive: true });
    },
    run: (at) => at.time(at.sources.counts.cFiles, 'make', '--silent', '-j2', '-C', at.lookKept('c') ?? ''),
  }),
  {
    name: 'dbench 2',
    unit: 'MiB/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    needs: program('dbench'),
    run: async (at) => {
      const folder = at.fresh('dbench');
      mkdirSync(folder);
      const text = await at.run('dbench', '-D', folder, '-t', DBENCH_SECONDS, '2');
      const megabytes = numberAfter(text, /^Throughput ([\d.]+) MB\/sec/m);
      return { value: megabytes, operations: megabytes * Number(DBENCH_SECONDS) };
    },
  },
  timed('sqlite, 1,000 transactions', {
    needs: program('sqlite3'),
    run: async (at) => {
      const insert = "BEGIN; INSERT INTO t(text) VALUES('some text of a row'); COMMIT;";
      const script = `CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);\n${`${insert}\n`.repeat(Number(at.count(TRANSACTIONS)))}`;
      const began = performance.now();
      await at.runWith(script, 'sqlite3', '-bail', at.fresh('sqlite'));
      return { value: (performance.now() - began) / 1000, operations: Number(at.count(TRANSACTIONS)) };
    },
  }),
  {
    name: 'pgbench, 2 clients',
    unit: '/s',
    better: 'higher',
    group: GROUP,
    drop: 'nothing',
    needs: { command: postgresFolder() === undefined ? 'initdb' : 'pg_ctlcluster', debian: 'postgresql' },
    prepare: async (at) => {
      await at.once('pgbench-tables', () =>
        withPostgres(at, (bin, where) =>
          asPostgres(at, join(bin, 'pgbench'), ...where, '--initialize', '--quiet', 'postgres'),
        ),
      );
    },
    run: (at) =>
      withPostgres(at, async (bin, where) => {
        const how = ['--client', '2', '--jobs', '2', '--time', PGBENCH_SECONDS, '--no-vacuum'];
        const text = await asPostgres(at, join(bin, 'pgbench'), ...where, ...how, 'postgres');
        const rate = numberAfter(text, /^tps = ([\d.]+)/m);
        return { value: rate, operations: rate * Number(PGBENCH_SECONDS) };
      }),
  },
];
