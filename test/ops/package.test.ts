/**
 * npm run package: what is in the packages and what is not, that the same tree makes the same bytes, that the packed tree runs on a
 * host without Node, and how versions lie side by side. test/ops/package_debian.test.ts installs the packages.
 */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { packageRoot } from '../../native/binding.js';
import { Child, run, runOk } from '../fixtures/child.js';
import { lacks } from './programs.js';

const root = packageRoot();
const VERSION = '1.2.3-rc.1';
const NAME = `holdfast-${VERSION}`;
const EPOCH = 1_700_000_000;
const skip = lacks('dpkg-deb', 'dpkg') || lacks('readelf', 'binutils');

function make(out: string, env: NodeJS.ProcessEnv, ...args: string[]) {
  return run(process.execPath, [join(root, 'package.mjs'), '--version', VERSION, '--out', out, ...args], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(EPOCH), ...env },
    timeoutMs: 120_000,
  });
}

function digests(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => [
        name,
        createHash('sha256')
          .update(readFileSync(join(folder, name)))
          .digest('hex'),
      ]),
  );
}

/** Mode, owner and name of each entry; a folder ends with a slash. */
function entriesOf(listing: string): string[] {
  return listing.split('\n').map((line) => {
    const [mode, owner, , date, time, name] = line.split(/\s+/);
    assert.equal(`${date} ${time}`, '2023-11-14 22:13', line);
    return `${mode} ${owner} ${name}`;
  });
}

test('logrotate empties a log that a process keeps open', {
  skip: lacks('logrotate', 'logrotate'),
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-logs-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const path of ['var/log', 'run/holdfast/mounts']) mkdirSync(join(folder, path), { recursive: true });
  const rules = readFileSync(join(root, 'mount', 'logrotate', 'holdfast'), 'utf8');
  writeFileSync(join(folder, 'rules'), rules.replace(/^(?=\/)/gm, folder));
  const logs = ['var/log/holdfast-home.log', 'run/holdfast/mounts/mnt-home.log'].map((path) =>
    join(folder, path),
  );
  for (const log of logs) writeFileSync(log, 'a line\n');
  const open = logs.map((log) => openSync(log, 'a'));
  t.after(() => open.forEach(closeSync));
  await runOk('logrotate', ['--force', '--state', join(folder, 'state'), join(folder, 'rules')]);
  for (const fd of open) writeSync(fd, 'the next line\n');
  assert.deepEqual(
    logs.map((log) => [readFileSync(log, 'utf8'), gunzipSync(readFileSync(`${log}.1.gz`)).toString()]),
    logs.map(() => ['the next line\n', 'a line\n']),
  );
});

describe('packages', { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-packages-'));
  const out = join(folder, 'out');
  const opt = join(folder, 'opt');
  const tree = join(opt, NAME);
  /** A PATH with what the programs of bin call, and without a Node. */
  const path = join(folder, 'path');
  let files: string[] = [];
  const holdfast = (args: readonly string[], from = tree) =>
    run(join(from, 'bin', 'holdfast'), args, { env: { PATH: path } });

  before(async () => {
    const made = await make(out, {});
    assert.equal(made.code, 0, made.stderr);
    mkdirSync(opt);
    await runOk('tar', ['-C', opt, '-xzf', join(out, `${NAME}.tar.gz`)]);
    mkdirSync(path);
    const readlink = (await runOk('sh', ['-c', 'command -v readlink'])).trim();
    symlinkSync(readlink, join(path, 'readlink'));
    const env = { ...process.env, TZ: 'UTC' };
    const listing = await runOk('tar', ['-tvzf', join(out, `${NAME}.tar.gz`)], { env });
    files = entriesOf(listing);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('the same tree makes the same bytes, whoever makes it and when', async () => {
    const again = join(folder, 'again');
    const umask = `umask 077; exec "$0" "$@"`;
    const args = [join(root, 'package.mjs'), '--version', VERSION, '--out', again];
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(EPOCH), TZ: 'Asia/Tokyo', LC_ALL: 'C' };
    await runOk('sh', ['-c', umask, process.execPath, ...args], { env, timeoutMs: 120_000 });
    assert.deepEqual(digests(again), digests(out));
    assert.deepEqual(Object.keys(digests(out)).length, 2);
  });

  test('a package has what a host needs, and nothing that is for building or testing', () => {
    const tops = files.flatMap((entry) => new RegExp(`${NAME}/([^/]+/?)$`).exec(entry)?.[1] ?? []);
    assert.deepEqual(tops, [
      ...['CHANGELOG.md', 'LICENSE', 'bin/', 'dist/', 'docs/', 'licenses/', 'mount/', 'native/'],
      ...['node_modules/', 'package.json'],
    ]);
    const rest = files.filter(
      (entry) => !/^(?:-rw[x-]r-[x-]r-[x-]|drwxr-xr-x) (?:root\/root|0\/0) /.test(entry),
    );
    assert.deepEqual(rest, []);
    const bin = files.flatMap((entry) => new RegExp(`^-rwx.* ${NAME}/(.*)$`).exec(entry)?.[1] ?? []);
    assert.deepEqual(bin, [
      ...['bin/holdfast', 'bin/mount.holdfast', 'bin/node', 'bin/umount.holdfast', 'mount/ocf/holdfast'],
      'native/build/Release/holdfast_keeper',
    ]);
    const wrong =
      /\.(?:ts|mts|cts|cc|c|h|gyp|o)$|node-gyp\/|\/tests?\/|\/dist\/(?:src|test)\/|musl|esbuild|typescript/;
    assert.deepEqual(
      files.filter((entry) => wrong.test(entry)),
      [],
    );
    for (const needed of [
      'dist/build.json',
      'dist/bin/live/server.html',
      'dist/bin/live/fleet.js',
      'native/build/Release/holdfast_native.node',
      'node_modules/lmdb/dist/index.cjs',
      'node_modules/prom-client/index.js',
      'mount/systemd/holdfast-serve@.service',
      'mount/logrotate/holdfast',
      'mount/monitoring/alerts.yml',
      'mount/fleet/playbook.yml',
      'dist/share/man/man8/holdfast.8',
      'dist/share/completion/_holdfast',
      'docs/INSTALL.md',
      'licenses/node',
      'licenses/commander',
    ]) {
      assert.ok(existsSync(join(tree, needed)), needed);
    }
  });

  test('the .deb has the same files in /opt/holdfast-VERSION, no others, and says what they need', async () => {
    const [deb = ''] = readdirSync(out).filter((name) => name.endsWith('.deb'));
    assert.match(deb, new RegExp(`^holdfast_${VERSION}_(amd64|arm64)\\.deb$`));
    const env = { ...process.env, TZ: 'UTC' };
    const listing = entriesOf(await runOk('dpkg-deb', ['--contents', join(out, deb)], { env }));
    const inOpt = listing.flatMap((entry) => / \.\/opt\/(holdfast.*)$/.exec(entry)?.[1] ?? []);
    assert.deepEqual(
      inOpt,
      files.map((entry) => entry.split(' ')[2]),
    );
    assert.equal(listing.length, inOpt.length + 2, './ and ./opt/');
    const { digest } = JSON.parse(readFileSync(join(tree, 'dist', 'build.json'), 'utf8')) as {
      digest: string;
    };
    const fields = await runOk('dpkg-deb', ['--field', join(out, deb), 'Package', 'Version', 'Depends']);
    assert.match(
      fields,
      new RegExp(
        `^Package: ${NAME}\nVersion: 1\\.2\\.3~rc\\.1\\+${digest}\nDepends: libc6 \\(>= 2\\.\\d+\\), libgcc-s1, libstdc\\+\\+6 \\(>= \\d+\\)$`,
      ),
    );
  });

  test('the packed tree runs without a Node, npm or compiler of the host', async () => {
    const version = await holdfast(['--version']);
    const { digest } = JSON.parse(readFileSync(join(tree, 'dist', 'build.json'), 'utf8')) as {
      digest: string;
    };
    assert.deepEqual([version.stdout, version.code], [`${VERSION}+${digest}`, 0], version.stderr);
    assert.match((await holdfast(['--help'])).stdout, /^Usage: holdfast \[options\] \[command\]/);
    const link = join(folder, 'elsewhere');
    symlinkSync(join(tree, 'bin', 'mount.holdfast'), link);
    const helper = await run(link, ['-f', '127.0.0.1:1', '/mnt', '-o', 'retry'], { env: { PATH: path } });
    assert.deepEqual([helper.code, helper.stderr], [0, '']);
    // The demo runs the program beside it: dist/src is in no package.
    const demo = readFileSync(join(tree, 'dist', 'bin', 'demo', 'run.js'), 'utf8');
    assert.doesNotMatch(demo, /packageRoot\(\), "dist", "src"/);
    // The addon, and every package that a bundle leaves outside.
    const load = `const load = require('node:module').createRequire(process.argv[1]);
      for (const name of ['lmdb', 'msgpackr-extract', 'prom-client']) load(name);
      load(process.argv[2]);`;
    const addon = join(tree, 'native', 'build', 'Release', 'holdfast_native.node');
    const node = join(tree, 'bin', 'node');
    await runOk(node, ['-e', load, join(tree, 'dist', 'bin', 'main.js'), addon], { env: { PATH: path } });
  });

  test('a second version changes nothing until it is taken into use, and only what nobody needs is removed', async () => {
    const next = join(opt, 'holdfast-1.3.0');
    cpSync(tree, next, { recursive: true });
    const about = readFileSync(join(tree, 'package.json'), 'utf8');
    writeFileSync(join(next, 'package.json'), about.replace(VERSION, '1.3.0'));
    const prefix = join(folder, 'prefix');
    const link = join(prefix, opt, 'holdfast');
    const install = async (from: string, ...args: string[]) => {
      const { code, stdout, stderr } = await holdfast(
        ['install', '--quiet', '--prefix', prefix, ...args],
        from,
      );
      return [code, code === 0 ? stdout : stderr];
    };
    assert.deepEqual(await install(tree), [0, `${link}: ${NAME} is in use`]);
    assert.equal(
      readlinkSync(join(prefix, 'usr', 'bin', 'holdfast')),
      join(opt, 'holdfast', 'bin', 'holdfast'),
    );
    assert.deepEqual(await install(next), [
      0,
      `${link}: ${NAME} is in use; it stays, until "holdfast use 1.3.0" changes that`,
    ]);
    assert.equal(readlinkSync(link), NAME);

    assert.deepEqual(await install(tree, '--remove'), [
      1,
      `holdfast: ${NAME} stays: it is in use; "holdfast use 1.3.0" first`,
    ]);
    assert.deepEqual(await install(next, '--use'), [0, `${link}: holdfast-1.3.0 is in use`]);
    assert.equal(readlinkSync(link), 'holdfast-1.3.0');

    const user = new Child('a process of the tree', join(tree, 'bin', 'node'), [
      '-e',
      'process.stdin.resume(); console.log("runs")',
    ]);
    try {
      await user.line(/^runs/);
      assert.deepEqual(await install(tree, '--remove'), [
        1,
        `holdfast: ${NAME} stays: a process (pid ${user.pid}) runs from it; end it first, or upgrade to another version`,
      ]);
    } finally {
      user.kill();
      await user.exited;
    }
    assert.deepEqual(await install(tree, '--remove'), [
      0,
      `${link}: holdfast-1.3.0 is in use; nothing to take away`,
    ]);
    rmSync(tree, { recursive: true });
    assert.deepEqual(await install(next, '--remove'), [0, `${link}: removed, no version is in use`]);
    assert.deepEqual(await runOk('find', [prefix, '-type', 'f', '-o', '-type', 'l']), '');
  });

  test('a package that cannot be made is refused in one line', async () => {
    const bad = join(folder, 'bad');
    const { SOURCE_DATE_EPOCH: _, ...env } = process.env;
    for (const [args, more, text] of [
      [['--version', '1.0'], {}, /^holdfast: the version "1\.0" is not like 1\.2\.3 or 1\.2\.3-rc\.1$/],
      [['--node', '/bin/true'], {}, /^holdfast: \/bin\/true is no Node that runs here$/],
      [
        ['--node-license', '/nowhere'],
        {},
        /^holdfast: no licence of Node \(\/nowhere\): name it with --node-license$/,
      ],
      [[], { SOURCE_DATE_EPOCH: 'now' }, /^holdfast: SOURCE_DATE_EPOCH is seconds since 1970, not "now"$/],
    ] as const) {
      const done = await run(process.execPath, [join(root, 'package.mjs'), '--out', bad, ...args], {
        env: { ...env, ...more },
        timeoutMs: 60_000,
      });
      assert.match(done.stderr, text);
      assert.deepEqual([done.code, existsSync(bad)], [1, false]);
    }
  });
});
