/** The systemd units: what systemd itself says of them, and what their ExecStart lines do when they are run. */

import assert from 'node:assert/strict';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { isMounted } from '../../mount/unmount.js';
import { packageRoot } from '../../native/binding.js';
import { Child, type Finished, run } from '../fixtures/child.js';
import { prepareCluster } from '../fixtures/cluster.js';
import { until, within } from '../fixtures/until.js';
import { cleanUpFirst, lacks, programOf } from './programs.js';

const UNITS = join(packageRoot(), 'mount', 'systemd');
const skip = lacks('systemd-analyze', 'systemd');

/** Values of a key, in order. */
function valuesOf(unit: string, key: string): string[] {
  const text = readFileSync(join(UNITS, unit), 'utf8');
  return [...text.matchAll(new RegExp(`^${key}=(.*)$`, 'gm'))].map(([, value = '']) => value);
}

/** A command line of a unit as systemd splits it: ${X} is one argument, $X as many as it has words. */
function commandOf(
  line: string,
  env: Readonly<Record<string, string>>,
  specifiers: Readonly<Record<string, string>>,
): string[] {
  return line
    .replace(/^-/, '')
    .split(' ')
    .flatMap((word) => {
      const list = /^\$(\w+)$/.exec(word)?.[1];
      if (list !== undefined) return (env[list] ?? '').split(' ').filter((part) => part !== '');
      const plain = word.replace(
        /%(\w)/g,
        (_, letter: string) => specifiers[letter] ?? assert.fail(`%${letter}`),
      );
      return [plain.replace(/\$\{(\w+)\}/g, (_, name: string) => env[name] ?? '')];
    });
}

interface Notified {
  readonly ready?: true;
  readonly READY?: string;
  readonly STATUS?: string;
}

/** systemd's end of NOTIFY_SOCKET. */
async function notifySocket(
  cleanUp: (() => Promise<unknown>)[],
  folder: string,
): Promise<{ path: string; seen(): Notified[] }> {
  const path = join(folder, 'notify');
  const script = join(packageRoot(), 'test', 'fixtures', 'notify_socket.py');
  const child = new Child('notify socket', 'python3', [script, path]);
  cleanUp.push(() => {
    child.kill('SIGKILL');
    return child.exited;
  });
  await child.line(/ready/);
  return { path, seen: () => child.stdout.map((line) => JSON.parse(line) as Notified) };
}

test('systemd has nothing to say against the units', { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-units-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const units = readdirSync(UNITS).filter((name) => name.endsWith('.service'));
  assert.deepEqual(units.sort(), [
    'holdfast-mount@.service',
    'holdfast-serve@.service',
    'holdfast-unmount@.service',
  ]);
  for (const unit of units) {
    // A template is looked at as an instance.
    copyFileSync(join(UNITS, unit), join(folder, unit));
    const instance = join(folder, unit.replace('@.', '@mnt-home.'));
    const done = await run('systemd-analyze', ['verify', '--man=no', instance]);
    const said = `${done.stdout}\n${done.stderr}`.split('\n').filter((line) => line.includes('holdfast'));
    assert.deepEqual([done.code, said], [0, []], `${unit}: ${done.stderr}`);
  }
});

test('a unit that has a mistake is found', { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-units-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const text = readFileSync(join(UNITS, 'holdfast-serve@.service'), 'utf8');
  writeFileSync(
    join(folder, 'holdfast-serve@.service'),
    text.replace('KillMode=mixed', 'KillMode=sometimes'),
  );
  const done = await run('systemd-analyze', ['verify', '--man=no', join(folder, 'holdfast-serve@x.service')]);
  assert.match(`${done.stdout}\n${done.stderr}`, /KillMode|kill mode/i);
});

test('the stop of a server takes longer than its drain may', () => {
  const [stop = ''] = valuesOf('holdfast-serve@.service', 'TimeoutStopSec');
  const options = readFileSync(join(packageRoot(), 'src', 'cli', 'serve.ts'), 'utf8');
  const drainMs =
    /'--drain-timeout <seconds>',\s*'[^']*',\s*([\d_]+),/.exec(options)?.[1] ??
    assert.fail('--drain-timeout has a default');
  assert.ok(Number(stop) >= 2 * (Number(drainMs.replaceAll('_', '')) / 1000), `${stop} s, ${drainMs} ms`);
});

test('the commands of the units serve, stand by and mount, and say when they are ready', {
  skip,
}, async (t) => {
  const cleanUp = cleanUpFirst(t);
  const cluster = prepareCluster(t);
  const bin = dirname(programOf(cluster.folder));
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'home']);
  const notify = await notifySocket(cleanUp, cluster.folder);
  const variables: Record<string, string> = {
    HOLDFAST_META: cluster.devices.meta,
    HOLDFAST_DATA: cluster.devices.data,
    HOLDFAST_LISTEN: '127.0.0.1:0',
  };
  const start = (unit: string, path = ''): Child => {
    const [line = ''] = valuesOf(unit, 'ExecStart');
    const [command = '', ...args] = commandOf(line, variables, { f: path });
    const env = {
      ...cluster.env,
      ...variables,
      PATH: `${bin}:${process.env.PATH}`,
      NOTIFY_SOCKET: notify.path,
    };
    return new Child(unit, command, args, env);
  };
  const readyWith = (status: RegExp): Promise<unknown> =>
    until(`systemd is told ${status}`, () =>
      notify.seen().some((said) => said.READY === '1' && status.test(said.STATUS ?? '')),
    );
  const stopCleanly = async (child: Child): Promise<void> => {
    const [signal = ''] = valuesOf('holdfast-serve@.service', 'KillSignal');
    child.kill(signal as NodeJS.Signals);
    assert.deepEqual(await within('it ends', child.exited), { code: 0, signal: null }, child.tail());
  };

  const active = start('holdfast-serve@.service');
  await readyWith(/^serving home on /);
  const [, address = ''] = await active.line(/serving home on (\S+),/);
  variables.HOLDFAST_LISTEN = address;
  variables.HOLDFAST_OPTIONS = '--standby --drain-timeout 20';
  const standby = start('holdfast-serve@.service');
  await readyWith(/^standing by for /);

  variables.HOLDFAST_SERVERS = address;
  variables.HOLDFAST_MOUNT_OPTIONS = 'cache=64m,retry';
  const dir = join(cluster.folder, 'mnt');
  mkdirSync(dir);
  const mount = start('holdfast-mount@.service', dir);
  await readyWith(new RegExp(`^mounted ${address} on ${dir}$`));
  assert.ok(isMounted(dir));

  await stopCleanly(active);
  await until(
    'systemd is told of the second start',
    () => notify.seen().filter((said) => /^serving home/.test(said.STATUS ?? '')).length === 2,
  );
  await stopCleanly(mount);
  assert.equal(isMounted(dir), false);
  await stopCleanly(standby);
});

/** A folder with a systemctl that says how many descriptors are kept for a unit. */
function systemctl(folder: string, kept: string): string {
  const bin = join(folder, `keeps ${kept}`);
  mkdirSync(bin);
  const path = join(bin, 'systemctl');
  const says = `#!/bin/sh\n[ "$*" = "show --property=NFileDescriptorStore --value the.service" ] && echo ${kept}\n`;
  writeFileSync(path, says, { mode: 0o755 });
  return bin;
}

test('what a killed client process leaves is gone before the next start, unless systemd keeps it', async (t) => {
  // The killed client never drains.
  const cluster = prepareCluster(t, { serveArgs: ['--drain-timeout', '1'] });
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  await cluster.serve();
  const bin = dirname(programOf(cluster.folder));
  const after = (unit: string, key: string, dir: string, path: string, result: string): Promise<Finished> => {
    const [line = ''] = valuesOf(unit, key);
    // Without a mount it has nothing to do, fails, and the unit ignores that.
    assert.ok(line.startsWith('-'));
    const [command = '', ...args] = commandOf(line, {}, { f: dir, n: 'the.service' });
    const env = { ...cluster.env, PATH: `${path}:${bin}:${process.env.PATH}`, SERVICE_RESULT: result };
    return run(command, args, { env });
  };
  const [none, two, nonsense] = ['0', '2', 'no'].map((kept) => systemctl(cluster.folder, kept)) as [
    string,
    string,
    string,
  ];
  const post = ['holdfast-mount@.service', 'ExecStopPost'] as const;
  const mount = await cluster.addMount();
  mount.child.kill('SIGKILL');
  await mount.child.exited;
  assert.ok(isMounted(mount.dir));
  assert.equal((await after(...post, mount.dir, two, 'signal')).code, 0);
  assert.ok(isMounted(mount.dir), 'the next process goes on with it');
  const unsaid = await after(...post, mount.dir, nonsense, 'signal');
  assert.deepEqual([unsaid.code, isMounted(mount.dir)], [1, true], unsaid.stderr);
  const done = await after(...post, mount.dir, none, 'signal');
  assert.deepEqual([done.code, isMounted(mount.dir)], [0, false], done.stderr);
  assert.equal((await after(...post, mount.dir, none, 'signal')).code, 1);

  // After an end that systemd takes for one in order, there is no next process.
  const other = await cluster.addMount();
  other.child.kill('SIGKILL');
  await other.child.exited;
  const ended = await after(...post, other.dir, two, 'success');
  assert.deepEqual([ended.code, isMounted(other.dir)], [0, false], ended.stderr);

  const last = await cluster.addMount();
  last.child.kill('SIGKILL');
  await last.child.exited;
  const cleared = await after('holdfast-unmount@.service', 'ExecStart', last.dir, two, 'signal');
  assert.deepEqual([cleared.code, isMounted(last.dir)], [0, false], cleared.stderr);
});
