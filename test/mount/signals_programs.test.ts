/** Programs that work with timers, through upgrades and crashes: PostgreSQL under pgbench, and git with its progress. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { Child, type Finished, run, runOk } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';
import { until, within } from '../fixtures/until.js';

const ROUNDS = 20;
const FILES = 60;
const DEBIAN = '/usr/lib/postgresql';
const LIMIT_MS = 290_000;

/** Of Debian's package, the newest version; undefined: it is not installed. */
function postgresPrograms(): string | undefined {
  if (!existsSync(DEBIAN)) return undefined;
  const versions = readdirSync(DEBIAN).sort((a, b) => Number(b) - Number(a));
  return versions
    .map((version) => join(DEBIAN, version, 'bin'))
    .find((bin) => existsSync(join(bin, 'initdb')));
}

/** Does it again and again until `stop()`. `times` counts what is done. */
class Loop {
  times = 0;
  readonly ended: Promise<void>;

  constructor(once: (time: number) => Promise<void>, stop: () => boolean) {
    this.ended = (async () => {
      while (!stop()) {
        await once(this.times);
        this.times += 1;
      }
    })();
    // Whoever awaits it gets the error too.
    this.ended.catch(() => undefined);
  }
}

test('PostgreSQL and git see no error through ten upgrades and ten crashes', {
  timeout: 300_000,
}, async (t) => {
  const bin = postgresPrograms();
  if (bin === undefined) return t.skip('postgresql is not installed');
  const cluster = await startCluster(t, { limitMs: LIMIT_MS });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const [data, sockets, repository] = ['data', 'sockets', 'repository'].map((name) => join(mount.dir, name));
  const asPostgres = (program: string, ...args: string[]): readonly string[] => [
    '--reuid=postgres',
    '--regid=postgres',
    '--init-groups',
    '--',
    join(bin, program),
    ...args,
  ];
  const postgres = (program: string, ...args: string[]): Promise<Finished> =>
    run('setpriv', asPostgres(program, ...args), { timeoutMs: 60_000 });

  await runOk('install', ['-d', '-o', 'postgres', '-m', '700', data ?? '', sockets ?? '']);
  const made = await postgres(
    'initdb',
    '-D',
    data ?? '',
    '-k',
    '-A',
    'trust',
    '--no-sync',
    '--no-instructions',
  );
  assert.equal(made.code, 0, made.stderr);
  // A waiting statement sets a timer that expires while it writes or syncs.
  const settings = ['deadlock_timeout=1ms', 'listen_addresses=', `unix_socket_directories=${sockets}`];
  const server = new Child(
    'postgres',
    'setpriv',
    asPostgres('postgres', '-D', data ?? '', ...settings.flatMap((setting) => ['-c', setting])),
  );
  t.after(() => server.kill('SIGKILL'));
  await server.line(/database system is ready/, 30_000);
  const bench = async (...args: string[]): Promise<void> => {
    const done = await postgres('pgbench', '-h', sockets ?? '', ...args, 'postgres');
    assert.deepEqual([done.code, /error|aborted/i.exec(done.stderr)], [0, null], done.stderr);
  };
  await bench('-i', '-q');

  const git = async (script: string): Promise<string> =>
    runOk('bash', ['-euo', 'pipefail', '-c', script], {
      env: {
        ...process.env,
        HOME: repository,
        GIT_CONFIG_NOSYSTEM: '1',
        GIT_PROGRESS_DELAY: '0',
        GIT_AUTHOR_NAME: 'a',
        GIT_AUTHOR_EMAIL: 'a@b',
        GIT_COMMITTER_NAME: 'a',
        GIT_COMMITTER_EMAIL: 'a@b',
      },
      timeoutMs: 60_000,
    });
  await git(`git init -q -b one ${repository}; cd ${repository}
    for n in $(seq ${FILES}); do mkdir -p d$((n % 20)); echo "one $n" > d$((n % 20))/f$n; done
    git add -A; git commit -qm one; git checkout -q -b two
    for n in $(seq ${FILES}); do echo "two $n" > d$((n % 20))/f$n; done; git commit -qam two`);

  let stop = false;
  const loops = [
    new Loop(
      () => bench('-n', '-c', '3', '-t', '5'),
      () => stop,
    ),
    new Loop(
      async (time) => {
        const status = await git(
          `cd ${repository}; git checkout --progress ${time % 2 === 0 ? 'one' : 'two'}; git status --porcelain
           echo ${time} > note; git add note; git commit -qm ${time}`,
        );
        assert.equal(
          status
            .split('\n')
            .filter((line) => /^(..) /.test(line))
            .join(),
          '',
          'the checkout is whole',
        );
      },
      () => stop,
    ),
  ];
  const failed = Promise.all(loops.map((loop) => loop.ended));
  failed.catch(() => undefined);
  for (let round = 0; round < ROUNDS; round++) {
    const before = loops.map((loop) => loop.times);
    const goesOn = until(
      'a program goes on',
      () => loops.some((loop, at) => loop.times > (before[at] ?? 0)),
      40_000,
    );
    await Promise.race([goesOn, failed]);
    if (round % 2 === 0) await cluster.upgrade();
    else await cluster.crash();
  }
  stop = true;
  await failed;
  assert.ok(loops.every((loop) => loop.times > 2));
  t.diagnostic(`${loops[0]?.times} runs of pgbench, ${loops[1]?.times} checkouts`);

  const sums = await postgres(
    'psql',
    ...['-h', sockets ?? '', '-Atc'],
    'select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)',
    'postgres',
  );
  assert.equal(sums.stdout, 't', sums.stderr);
  server.kill('SIGTERM');
  assert.deepEqual(await within('PostgreSQL ends', server.exited), { code: 0, signal: null }, server.tail());
  const complaints = [...server.stdout, ...server.stderr].filter((line) =>
    /WARNING|ERROR|FATAL|PANIC/.test(line),
  );
  assert.deepEqual(complaints, []);
  const checked = await postgres('pg_checksums', '--check', '-D', data ?? '');
  assert.match(checked.stdout, /Bad checksums: {2}0/, checked.stderr);
  await git(`cd ${repository}; git fsck --strict`);
});
