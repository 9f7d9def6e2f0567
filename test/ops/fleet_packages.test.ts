/**
 * Packages of two versions in two Debians, upgraded by `holdfast fleet` from one to the other and back: a server in the first, and in the
 * second a mount with a program that checks what it reads. Each Debian has its own root, processes and network, and is reached by ssh.
 * debian.ts says what it needs.
 */

import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { nextVersion } from '../../src/cli/demo/tree.js';
import { installedVersion } from '../../src/cli/installed.js';
import { run, runOk } from '../fixtures/child.js';
import { FleetLoad, LOAD_PROGRAM } from '../fixtures/fleet_load.js';
import { Network } from '../fixtures/hosts.js';
import { thisTree } from '../fixtures/installed_tree.js';
import { SshSite } from '../fixtures/ssh_host.js';
import { until } from '../fixtures/until.js';
import { bootstrap, lacksDebian, RELEASES } from './debian.js';
import { lacks } from './programs.js';

const LIMIT_MS = 2_400_000;
const COMMAND_MS = 400_000;
const root = packageRoot();
const [OLD = '', NEW = ''] = [installedVersion(), nextVersion(installedVersion())].map((version) =>
  version.replace(/\+.*/, ''),
);
const skip = (await lacksDebian()) || lacks('ssh', 'openssh-client') || lacks('ip', 'iproute2');
/** Of the second Debian, whose programs see it. */
const MOUNTPOINT = '/mnt/home';

/** Two systems with both packages, made from one. */
async function systems(folder: string): Promise<readonly [string, string]> {
  const packages = join(folder, 'packages');
  for (const version of [OLD, NEW]) {
    const words = [join(root, 'package.mjs'), '--out', packages, '--version', version, '--only', 'deb'];
    await runOk(process.execPath, words, { timeoutMs: COMMAND_MS });
  }
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  await bootstrap(RELEASES[0] ?? '', first, ['openssh-server', 'python3']);
  await runOk('cp', ['-a', packages, join(first, 'packages')]);
  copyFileSync(LOAD_PROGRAM, join(first, 'load.py'));
  const enter = ['-mnpf', '--kill-child', join(root, 'test', 'fixtures', 'in_chroot.sh'), first];
  const install = `dpkg -i /packages/holdfast_${OLD}_*.deb && dpkg -i /packages/holdfast_${NEW}_*.deb && rm -r /packages`;
  await runOk('unshare', [...enter, 'sh', '-c', install], { timeoutMs: COMMAND_MS });
  await runOk('cp', ['-a', first, second], { timeoutMs: COMMAND_MS });
  return [first, second];
}

type HostName = 'server' | 'client';

interface Site {
  readonly file: string;
  /** Runs a command by ssh. @returns its stdout. */
  on(host: HostName, command: string): Promise<string>;
  /** A command line that runs these words by ssh. */
  line(host: HostName, words: readonly string[]): readonly string[];
}

type CleanUp = (() => unknown)[];

async function makeSite(t: TestContext, clean: CleanUp): Promise<Site> {
  t.after(async () => {
    for (const step of clean.reverse()) await step();
  });
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-fleet-'));
  clean.push(() => rmSync(folder, { recursive: true, force: true }));
  const [first, second] = await systems(folder);
  const network = await Network.make();
  clean.push(() => network.remove());
  const ssh = await SshSite.make(join(folder, 'site'));
  const server = await ssh.addHost(await network.addHost('server'), {}, first);
  const client = await ssh.addHost(await network.addHost('client'), {}, second);
  for (const host of [server, client]) {
    clean.push(() => host.die());
    await host.startSshd();
  }
  const line = (host: HostName, words: readonly string[]): readonly string[] => [
    'ssh',
    '-F',
    ssh.config,
    host,
    ...words,
  ];
  const on = async (host: HostName, command: string): Promise<string> => {
    const [program = '', ...words] = line(host, [command]);
    const done = await run(program, words, { timeoutMs: COMMAND_MS });
    assert.equal(done.code, 0, `${command}: ${done.stdout} ${done.stderr}`);
    return done.stdout;
  };
  const serve = 'setsid holdfast serve --meta /disks/meta --data /disks/data --listen {listen}';
  const background = '</dev/null >>/var/log/serve.log 2>&1 &';
  const file = join(folder, 'fleet.toml');
  const text = [
    `run = '''ssh -F ${ssh.config} {host}'''`,
    'start_limit = "120s"',
    ...[server, client].map(({ host }) => `[[host]]\nname = "${host.name}"\naddress = "${host.address}"`),
    '[[target]]\nlabel = "home"\nhosts = ["server"]',
    // No systemd runs there; otherwise this is what the usual line does.
    `start = '''set -e; {root}/bin/holdfast use {version}; ${serve} ${background}'''`,
    `[[client]]\nhost = "client"\nmountpoint = "${MOUNTPOINT}"`,
  ];
  writeFileSync(file, text.join('\n'));
  const listen = `${server.host.address}:7988`;
  await on('server', 'mkdir /disks && truncate -s 128M /disks/meta && truncate -s 256M /disks/data');
  await on('server', 'holdfast mkfs --meta /disks/meta --data /disks/data --label home');
  await on('server', `${serve.replace('{listen}', listen)} ${background}`);
  await until(
    'the server serves',
    async () => (await on('server', 'cat /var/log/serve.log')).includes('serving home'),
    COMMAND_MS,
  );
  clean.push(() => on('server', 'holdfast shutdown home'));
  await on('server', 'mkdir -p /etc/holdfast');
  await on('server', 'holdfast access add client --no-root-squash --output /etc/holdfast/home.key');
  const keys = (system: string): string => join(system, 'etc', 'holdfast');
  mkdirSync(keys(second), { recursive: true });
  writeFileSync(join(keys(second), 'home.key'), readFileSync(join(keys(first), 'home.key')), { mode: 0o600 });
  await on('client', `mkdir -p ${MOUNTPOINT} && holdfast mount home@${listen} ${MOUNTPOINT}`);
  clean.push(() => on('client', `holdfast umount ${MOUNTPOINT}`));
  return { file, on, line };
}

/** Of `fleet status`: what it is, its version and its state. */
function rowsOf(status: string): string[] {
  const rows = status.matchAll(/^(server|client) +home +.*? (\d[\d.]+) +(.*)$/gm);
  return [...rows].map((row) => row.slice(1).join(' '));
}

test('packages of two versions in two Debians are upgraded by a fleet command, and back', {
  timeout: LIMIT_MS,
  skip,
}, async (t) => {
  const clean: CleanUp = [];
  const { file, on, line } = await makeSite(t, clean);
  const load = new FleetLoad(MOUNTPOINT, 'client', line('client', ['python3', '/load.py']));
  clean.push(async () => {
    load.child.kill('SIGKILL');
    await load.child.exited;
  });
  await load.ready();
  const fleet = async (...words: string[]): Promise<string> => {
    const command = [thisTree().main, 'fleet', file, ...words];
    const done = await run(process.execPath, command, { timeoutMs: COMMAND_MS });
    assert.equal(done.code, 0, `${done.stdout}\n${done.stderr}`);
    return done.stdout;
  };
  assert.match(await fleet('check', '--to', NEW), new RegExp(`go: upgrade --to ${NEW}$`));
  for (const [words, version] of [
    [['upgrade', '--to', NEW], NEW],
    [['rollback'], OLD],
  ] as const) {
    t.diagnostic((await fleet(...words)).trim().split('\n').at(-1) ?? '');
    await load.goesOn();
    assert.deepEqual(rowsOf(await fleet('status')), [
      `server ${version} active`,
      `client ${version} FULL, gate OPEN`,
    ]);
    assert.equal(await on('server', 'readlink /opt/holdfast'), `holdfast-${version}`);
  }
  t.diagnostic(`longest call of a program ${(await load.stop()).longestMs.toFixed(0)} ms`);
});
