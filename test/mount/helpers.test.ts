/** mount(8) and umount(8) with our helpers, and what `holdfast install` does. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { run } from '../fixtures/child.js';
import { prepareCluster } from '../fixtures/cluster.js';
import { makeFolder, removeFolder } from '../fixtures/devices.js';
import { thisTree } from '../fixtures/installed_tree.js';
import { processesUnder } from '../fixtures/leftovers.js';
import { until } from '../fixtures/until.js';

test('mount and umount of the system: remount, -r, -l, -f, and what was written is on the server when umount returns', async (t) => {
  const folder = makeFolder();
  t.after(async () => assert.deepEqual(await removeFolder(folder), [], 'the test left something behind'));
  const { main } = thisTree();
  const script = join(packageRoot(), 'test', 'fixtures', 'mount_helpers.sh');
  // timeout ends it, and with it the namespace and its mounts, should a step hang.
  const done = await run('timeout', ['-k', '5', '240', 'unshare', '-m', script, main, folder], {
    timeoutMs: 250_000,
  });
  assert.deepEqual(
    [done.stdout.trim().split('\n'), done.code],
    [['mounted', 'remounted', 'detached', 'written', 'forced', 'done'], 0],
    done.stderr,
  );
  await until('the clients are gone', () => processesUnder(folder).length === 0);
});

test('install says what it does, changes nothing that is not ours, and takes away what it made', async (t) => {
  const cluster = prepareCluster(t);
  const prefix = join(cluster.folder, 'root');
  const install = (...args: string[]) => cluster.cli(['install', '--prefix', prefix, ...args]);
  const sbin = join(prefix, 'sbin');
  const planned = await install('--dry-run');
  assert.match(planned.stdout, /^would: .*umount\.fuse\.holdfast: link to /m);
  assert.throws(() => readdirSync(prefix), { code: 'ENOENT' });

  await install();
  assert.deepEqual(readdirSync(sbin), ['mount.fuse.holdfast', 'mount.holdfast', 'umount.fuse.holdfast']);
  assert.equal(
    readlinkSync(join(sbin, 'umount.fuse.holdfast')),
    join(packageRoot(), 'dist', 'bin', 'umount_holdfast.js'),
  );
  const page = join(packageRoot(), 'dist', 'share', 'man', 'man8', 'holdfast.8');
  assert.equal(readlinkSync(join(prefix, 'usr', 'local', 'share', 'man', 'man8', 'holdfast.8')), page);
  const again = await install();
  assert.equal(
    again.stdout.split('\n').filter((line) => line.endsWith(': is there already')).length,
    13,
    again.stdout,
  );

  // Of another version: replaced. Of somebody else: in the way, before anything is done.
  rmSync(join(sbin, 'mount.holdfast'));
  symlinkSync('/opt/holdfast-0.0.9/dist/src/cli/mount_holdfast.js', join(sbin, 'mount.holdfast'));
  assert.match((await install()).stdout, /mount\.holdfast: link to .*, in place of an earlier one/);
  rmSync(join(sbin, 'mount.holdfast'));
  writeFileSync(join(sbin, 'mount.holdfast'), 'another program');
  rmSync(join(sbin, 'umount.fuse.holdfast'));
  const refused = await install();
  assert.deepEqual([refused.code, /mount\.holdfast exists and is not/.test(refused.stderr)], [1, true]);
  assert.deepEqual(readdirSync(sbin), ['mount.fuse.holdfast', 'mount.holdfast']);

  // The operator's own changes stay.
  const rotation = join(prefix, 'etc', 'logrotate.d', 'holdfast');
  writeFileSync(rotation, '/var/log/holdfast-*.log { daily }');
  rmSync(join(sbin, 'mount.holdfast'));
  assert.match((await install()).stdout, /logrotate\.d\/holdfast: stays as it is/);
  rmSync(join(sbin, 'mount.holdfast'));
  writeFileSync(join(sbin, 'mount.holdfast'), 'another program');

  await install('--remove');
  assert.deepEqual(readdirSync(sbin), ['mount.holdfast']);
  assert.equal(readFileSync(rotation, 'utf8'), '/var/log/holdfast-*.log { daily }');
  assert.deepEqual(readdirSync(join(prefix, 'etc', 'systemd', 'system')), []);
});
