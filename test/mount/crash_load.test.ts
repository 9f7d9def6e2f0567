/**
 * Load on a server that is stopped and killed again and again: nothing is lost, nothing fails.
 * HOLDFAST_LOAD_SECONDS: how long the programs run (60).
 */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { O } from '../fixtures/agent.js';
import { Child } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';
import { ModelledTree } from '../fixtures/modelled_tree.js';
import { until } from '../fixtures/until.js';

const SOURCES = join(packageRoot(), 'node_modules', 'commander');
const LOAD_MS = Number(process.env.HOLDFAST_LOAD_SECONDS ?? 60) * 1000;
const KILL_EVERY_MS = 10_000;

test('a server stopped and killed 20 times under load loses nothing', { timeout: 240_000 }, async (t) => {
  const cluster = await startCluster(t, { mounts: 2, limitMs: 230_000 });
  const appender = cluster.agent(0);
  const fd = await appender.open('log', O.CREAT | O.WRONLY | O.APPEND);
  let written = 0;
  let stop = false;
  const appending = (async () => {
    while (!stop) {
      await appender.write(fd, `record ${written}\n`);
      written += 1;
    }
  })();
  const trees = [new ModelledTree(), new ModelledTree()];
  const working = trees.map((tree, at) => tree.work(cluster, at, `tree${at}`, () => stop));
  const failed = Promise.all([appending, ...working]);
  failed.catch(() => undefined);
  for (let round = 0; round < 20; round++) {
    const before = [written, ...trees.map((tree) => tree.operations)];
    const goesOn = until(
      'the load goes on',
      () =>
        [written, ...trees.map((tree) => tree.operations)].every(
          (count, at) => count > (before[at] ?? 0) + 20,
        ),
      40_000,
    );
    await Promise.race([goesOn, failed]);
    if (round % 2 === 0) await cluster.crash();
    else await cluster.upgrade();
  }
  stop = true;
  await failed;
  await appender.close(fd);
  // Seen by the other mount: from the server.
  const lines = (await cluster.agent(1).readFile('log')).split('\n').slice(0, -1);
  assert.deepEqual(
    lines,
    Array.from({ length: written }, (_, at) => `record ${at}`),
  );
  for (const [at, tree] of trees.entries()) await tree.check(cluster, 1 - at, `tree${at}`);
  assert.deepEqual((await cluster.status()).evicted, []);
  t.diagnostic(`${written} records, ${trees.map((tree) => tree.operations).join(' and ')} operations`);
});

interface Program {
  readonly name: string;
  readonly needs: readonly string[];
  /** Runs again and again in a folder of its own, and checks what it did. */
  readonly script: string;
}

const PROGRAMS: readonly Program[] = [
  {
    name: 'tar',
    needs: ['tar', 'diff'],
    script: `while [ ! -e stop ]; do
      mkdir tree; tar -C ${SOURCES} -cf - . | tar -C tree -xf -; diff -r ${SOURCES} tree; rm -r tree; echo round
    done`,
  },
  {
    name: 'dbench',
    // A dbench that gets no semaphore from the kernel has not touched the mount yet: it begins anew.
    needs: ['dbench'],
    script: `mkdir work; while [ ! -e stop ]; do dbench -D work -t 15 -c /usr/share/dbench/client.txt 2 > out 2>&1 ||
        { grep -q 'barrier semaphore' out && continue; cat out; exit 1; }
      if grep -v 'barrier semaphore' out | grep -iE -m 20 'error|failed|no such'; then exit 1; fi; echo round; done`,
  },
  {
    name: 'sqlite',
    needs: ['sqlite3'],
    script: `sqlite3 db 'pragma journal_mode=wal; create table t(n integer primary key, v);'; n=0
      while [ ! -e stop ]; do
        : > batch; for i in 1 2 3 4 5; do n=$((n + 1)); echo "insert into t values($n, hex(randomblob(3000)));" >> batch; done
        sqlite3 -bail db < batch
        test "$(sqlite3 db 'pragma integrity_check; select count(*) from t; select max(n) from t;' | tr '\\n' ' ')" = "ok $n $n "
        echo round
      done`,
  },
];

function missing(program: Program): string | undefined {
  return program.needs.find((each) => spawnSync('sh', ['-c', `command -v ${each}`]).status !== 0);
}

async function underKills(t: TestContext, programs: readonly Program[]): Promise<void> {
  const cluster = await startCluster(t, { limitMs: LOAD_MS + 120_000 });
  const mount = cluster.mounts[0];
  assert(mount !== undefined);
  const agent = cluster.agent();
  const children: Child[] = [];
  for (const { name, script } of programs) {
    await agent.mkdir(name);
    const inFolder = `set -euo pipefail; cd ${mount.dir}/${name}; ${script}`;
    children.push(new Child(name, 'bash', ['-c', inFolder]));
  }
  t.after(() => children.map((child) => child.exit === undefined && process.kill(-child.pid, 'SIGKILL')));
  const failure = Promise.race(
    children.map(async (child) => {
      const { code } = await child.exited;
      if (code !== 0) throw new Error(`${child.name} failed: ${child.tail()}`);
    }),
  );
  failure.catch(() => undefined);
  let kills = 0;
  for (const end = performance.now() + LOAD_MS; performance.now() < end; ) {
    const pause = new Promise((resolve) => setTimeout(resolve, Math.min(KILL_EVERY_MS, LOAD_MS / 3)));
    await Promise.race([pause, failure.then(() => pause)]);
    await cluster.crash();
    kills += 1;
  }
  for (const { name } of programs) await agent.writeFile(`${name}/stop`, '');
  const ends = await Promise.all(children.map((child) => child.exited));
  assert.deepEqual(
    ends.map(({ code }) => code),
    programs.map(() => 0),
    children.map((child) => `${child.name}: ${child.tail()}`).join('\n'),
  );
  assert.deepEqual((await cluster.status()).evicted, []);
  const rounds = children.map((child) => child.stdout.filter((line) => line === 'round').length);
  assert.ok(
    rounds.every((count) => count > 0),
    `every program did something: ${rounds}`,
  );
  t.diagnostic(
    `${kills} kills; rounds of ${programs.map(({ name }, at) => `${name} ${rounds[at]}`).join(', ')}`,
  );
}

test('tar, dbench and sqlite see no error while the server is killed every 10 s', {
  timeout: LOAD_MS + 140_000,
}, async (t) => {
  const absent = PROGRAMS.map(missing).find((name) => name !== undefined);
  if (absent !== undefined) t.skip(`${absent} is not installed`);
  else await underKills(t, PROGRAMS);
});
