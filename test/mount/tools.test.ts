/** Programs that people use, on a mount. A program that is not installed is skipped; .ci/run installs them all. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { runOk } from '../fixtures/child.js';
import { type Place, sharedCluster } from '../fixtures/shared_cluster.js';

const shared = sharedCluster({ mounts: 2 });
const SOURCES = join(packageRoot(), 'node_modules', 'commander');

async function place(t: TestContext, ...programs: readonly string[]): Promise<Place | undefined> {
  for (const program of programs) {
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) {
      t.skip(`${program} is not installed`);
      return undefined;
    }
  }
  return shared.place(t);
}

const sh = (script: string, env: NodeJS.ProcessEnv = {}): Promise<string> =>
  runOk('bash', ['-euo', 'pipefail', '-c', script], { env: { ...process.env, ...env }, timeoutMs: 60_000 });

test('tar unpacks a source tree, and diff finds nothing on either mount', async (t) => {
  const here = await place(t, 'tar', 'diff');
  if (here === undefined) return;
  await sh(
    `tar -C ${SOURCES} -cf - . | tar -C ${here.path()} -xf -; diff -r ${SOURCES} ${here.path()}; diff -r ${SOURCES} ${here.path('', 1)}`,
  );
});

test('cp -a and rsync -aX keep everything', async (t) => {
  const here = await place(t, 'rsync', 'setfattr');
  if (here === undefined) return;
  await sh(`
    cd ${here.path()}; mkdir from; cp -a ${SOURCES}/. from/tree
    ln from/tree/package.json from/hard; ln -s hard from/soft; mkfifo from/fifo; chmod 4711 from/hard
    setfattr -n user.note -v 'kept' from/hard; touch -d '2001-02-03 04:05:06.789' from/tree
    cp -a from copied; rsync -aXH from/ synced/
    for to in copied synced; do
      diff -r --no-dereference from/tree $to/tree
      for name in . hard soft fifo tree; do
        cmp <(stat -c '%A %h %s %Y' from/$name | sed 's/^\\(d.* \\)[0-9]* /\\1/') <(stat -c '%A %h %s %Y' $to/$name | sed 's/^\\(d.* \\)[0-9]* /\\1/')
      done
      getfattr -n user.note --only-values $to/hard | grep -q kept
    done
    test -z "$(rsync -aXHni --checksum from/ synced/)"
  `);
});

test('git clones, commits and finds its repository whole', async (t) => {
  const here = await place(t, 'git');
  if (here === undefined) return;
  const env = {
    HOME: here.path(),
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_AUTHOR_NAME: 'a',
    GIT_AUTHOR_EMAIL: 'a@b',
    GIT_COMMITTER_NAME: 'a',
    GIT_COMMITTER_EMAIL: 'a@b',
  };
  await sh(
    `cd ${here.path()}; git init -q origin; cp -r ${SOURCES}/. origin/; cd origin; git add -A; git commit -qm one; cd ..
     git clone -q origin clone; cd clone; for n in 1 2 3; do echo $n >> file; git add file; git commit -qm $n; done
     git gc -q; git fsck --strict; git checkout -q -b other HEAD~2; git rebase -q -; git status --porcelain | wc -l | grep -qx 0`,
    env,
  );
  await sh(
    `cd ${here.path('clone', 1)}; git -c safe.directory='*' fsck --strict; git -c safe.directory='*' log --oneline | wc -l | grep -qx 4`,
    env,
  );
});

test('sqlite3 keeps its databases whole, in WAL and rollback mode, with two processes on one mount', async (t) => {
  const here = await place(t, 'sqlite3');
  if (here === undefined) return;
  for (const mode of ['wal', 'delete', 'truncate']) {
    const database = here.path(`${mode}.db`);
    const insert = (from: number): Promise<string> =>
      sh(
        `for n in $(seq ${from} $((${from} + 24))); do echo "insert into t values($n, hex(randomblob(2000)));"; done | sqlite3 -cmd '.timeout 20000' ${database}`,
      );
    await sh(`sqlite3 ${database} 'pragma journal_mode=${mode}; create table t(n integer primary key, v);'`);
    await Promise.all([insert(1), insert(1001)]);
    const found = await sh(
      `sqlite3 ${database} 'pragma integrity_check; select count(*), sum(length(v)) from t;'`,
    );
    assert.deepEqual(found.split('\n'), ['ok', `50|${50 * 4000}`], mode);
  }
});

test('a database in rollback mode is shared by two mounts', async (t) => {
  const here = await place(t, 'sqlite3');
  if (here === undefined) return;
  await sh(`sqlite3 ${here.path('db')} 'create table t(n);'`);
  await Promise.all(
    [0, 1].map((mountIndex) =>
      sh(
        `for n in $(seq 1 15); do sqlite3 -cmd '.timeout 20000' ${here.path('db', mountIndex)} "insert into t values(${mountIndex});"; done`,
      ),
    ),
  );
  const found = await sh(
    `sqlite3 ${here.path('db', 1)} 'pragma integrity_check; select n, count(*) from t group by n;'`,
  );
  assert.deepEqual(found.split('\n'), ['ok', '0|15', '1|15']);
});

test('make builds a C program, and builds nothing the second time', async (t) => {
  const here = await place(t, 'make', 'cc');
  if (here === undefined) return;
  const units = Array.from({ length: 8 }, (_, at) => at);
  await here.a.writeFile(
    'Makefile',
    `main: main.o ${units.map((at) => `unit${at}.o`).join(' ')}\n\t$(CC) -o $@ $^\n%.o: %.c all.h\n\t$(CC) -c -o $@ $<\n`,
  );
  await here.a.writeFile(
    'all.h',
    units
      .map((at) => `int unit${at}(void);`)
      .join('\n')
      .concat('\n'),
  );
  for (const at of units)
    await here.a.writeFile(`unit${at}.c`, `#include "all.h"\nint unit${at}(void) { return ${at}; }\n`);
  await here.a.writeFile(
    'main.c',
    `#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", ${units.map((at) => `unit${at}()`).join('+')}); }\n`,
  );
  await sh(`make -s -j4 -C ${here.path()}`);
  assert.equal(await runOk(here.path('main'), []), '28');
  assert.match(await sh(`make -C ${here.path()} main`), /up to date/);
  await sh(`make -q -C ${here.path('', 1)} main`);
});

for (const [name, options] of [
  ['sequentially', '--rw=write --bs=128k --size=24m'],
  ['at random', '--rw=randwrite --bs=4k --size=8m'],
  ['at random with fsync', '--rw=randwrite --bs=16k --size=2m --fsync=8'],
  ['through a mapping', '--rw=randwrite --bs=4k --size=8m --ioengine=mmap'],
  ['directly', '--rw=randwrite --bs=4k --size=8m --direct=1'],
] as const) {
  test(`fio verifies what it wrote ${name}`, async (t) => {
    const here = await place(t, 'fio');
    if (here === undefined) return;
    await sh(
      `cd ${here.path()}; fio --name=job --filename=${here.path('file')} --verify=crc32c --verify_fatal=1 --do_verify=1 --ioengine=psync ${options} --output=report --output-format=terse`,
    );
  });
}

test('dd, truncate, tail -f and a pipeline do what they do anywhere', async (t) => {
  const here = await place(t, 'dd');
  if (here === undefined) return;
  await sh(`
    cd ${here.path()}
    dd if=/dev/urandom of=random bs=64k count=40 status=none; sha256sum random > sum; sha256sum -c --quiet sum
    dd if=random of=copy bs=1000 conv=fsync status=none; cmp random copy
    truncate -s 1G sparse; test "$(du -k sparse | cut -f1)" -lt 100; cp --sparse=always sparse sparse2
    (for n in $(seq 50); do echo line $n; done) > lines; tac lines | sort -k2n | cmp - lines
    touch followed; timeout 20 tail -n +1 -f followed > got & tail=$!
    for n in $(seq 20); do echo $n >> followed; done
    timeout 10 bash -c 'until [ "$(wc -l < got)" = 20 ]; do read -t 0.05 <> <(:) || true; done'; kill $tail; wait $tail || true; cmp got followed
  `);
});

test('find, du and rm -r work through a deep and a wide tree', async (t) => {
  const here = await place(t, 'find');
  if (here === undefined) return;
  const found = await sh(`
    cd ${here.path()}; deep=.; for n in $(seq 60); do deep=$deep/d; mkdir $deep; done; touch $deep/bottom
    mkdir wide; cd wide; for n in $(seq 800); do : > f$n; done; cd ..
    find . -type f | wc -l; find ${here.path('', 1)} -type f | wc -l; rm -r wide d; find . | wc -l
  `);
  assert.deepEqual(found.split('\n').map(Number), [801, 801, 1]);
});

test('overlayfs builds a program with its upper directory here, and the other mount shows the same as its upper directory', async (t) => {
  const here = await place(t, 'gcc', 'make', 'unshare');
  if (here === undefined) return;
  const look = 'find . -mindepth 1 ! -name "*.o" -printf "%P %y %m %s\\n" | sort';
  /** In a mount namespace of its own: the overlay ends with the script. */
  const inOverlay = (mountIndex: number, script: string): Promise<string> =>
    runOk(
      'unshare',
      [
        ...['-m', 'bash', '-euo', 'pipefail', '-c'],
        `mount -t tmpfs none /mnt
        mkdir -p /mnt/lower/src/old /mnt/merged; cd /mnt/lower/src
        echo 'int twice(int n) { return 2 * n; }' > twice.c
        echo 'int twice(int); int main(void) { return twice(21); }' > main.c
        printf 'prog: main.o twice.o\\n\\tgcc -o prog main.o twice.o\\n' > Makefile
        echo gone > old/gone; echo moved > old/moved; touch -d @1000000000 /mnt/lower/src/* /mnt/lower/src/old/*
        mount -t overlay none /mnt/merged -o lowerdir=/mnt/lower,upperdir=${here.path('upper', mountIndex)},workdir=${here.path('work', mountIndex)}
        cd /mnt/merged/src; ${script}`,
      ],
      { timeoutMs: 60_000 },
    );
  await here.a.mkdir('upper');
  await here.a.mkdir('work');
  const built = await inOverlay(
    0,
    `make -s; code=0; ./prog || code=$?; [ $code = 42 ]
    rm old/gone; mv old/moved kept; mv twice.c thrice.c; rm -r old; mkdir old; echo new > old/new
    ${look}`,
  );
  const whiteouts = await sh(`cd ${here.path('upper', 1)}; find . -type c | sort`);
  assert.equal(whiteouts.trim(), './src/twice.c');
  assert.equal(await inOverlay(1, look), built);
  assert.match(built, /^kept f .*\n.*\nold d .*\nold\/new f/m);
});
