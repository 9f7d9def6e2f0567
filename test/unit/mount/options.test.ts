import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseMountTable } from '../../../mount/mount_table.js';
import { parseMountOptions } from '../../../mount/options.js';
import { MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY } from '../../../native/binding.js';
import { FsError } from '../../../src/base/errno.js';

const DEFAULTS = {
  cacheBytes: 256 << 20,
  intr: 'fatal',
  intrGraceMs: 1000,
  retry: false,
  sync: false,
  syncMetadata: false,
  deathsMax: 3,
  takesOver: false,
  metrics: undefined,
  slowMs: undefined,
  umountTimeoutMs: undefined,
  driver: 'native',
  readOnly: false,
  allowOther: true,
  name: undefined,
  proofs: { by: 'default' },
  mountFlags: 0,
};

function refusal(text: string): string {
  try {
    parseMountOptions(text, true);
  } catch (error) {
    assert.ok(error instanceof FsError);
    return `${error.code}: ${error.message}`;
  }
  return 'accepted';
}

test('what holds when nothing is said, for root and for others', () => {
  assert.deepEqual(parseMountOptions('', true), DEFAULTS);
  assert.deepEqual(parseMountOptions('', false), {
    ...DEFAULTS,
    allowOther: false,
    mountFlags: MS_NOSUID | MS_NODEV,
  });
});

test('what stands in /etc/fstab for every filesystem is accepted', () => {
  const words =
    'defaults,user,auto,nofail,_netdev,lazytime,strictatime,relatime,iversion,silent,async,comment=a b,x-systemd.automount,x-gvfs-show';
  assert.deepEqual(parseMountOptions(words, true), DEFAULTS);
});

test('an unknown option names itself, and the known one that is next to it', () => {
  const hints = ['nosiud', 'chache=1g', 'umount_timeut=3', 'intr-grace=1', 'zzz'].map((word) =>
    /^EINVAL: unknown mount option "([^"]+)"; (?:did you mean (\w+)\? )?known are cache=SIZE/.exec(
      refusal(word),
    ),
  );
  assert.deepEqual(
    hints.map((match) => [match?.[1], match?.[2]]),
    [
      ['nosiud', 'nosuid'],
      ['chache', 'cache'],
      ['umount_timeut', 'umount_timeout'],
      ['intr-grace', 'intr_grace'],
      ['zzz', undefined],
    ],
  );
});

test('every option is understood, and the last word counts', () => {
  assert.deepEqual(
    parseMountOptions(
      'ro,cache=1g,intr=all,intr_grace=0,retry,sync,umount_timeout=2.5,driver=fuse-native,noallow_other,name=web 1,noatime,suid,nosuid,metrics=9464,slow=200ms',
      true,
    ),
    {
      cacheBytes: 1 << 30,
      intr: 'all',
      intrGraceMs: 0,
      retry: true,
      sync: true,
      syncMetadata: true,
      deathsMax: 3,
      takesOver: false,
      metrics: { host: '127.0.0.1', port: 9464 },
      slowMs: 200,
      umountTimeoutMs: 2500,
      driver: 'fuse-native',
      readOnly: true,
      allowOther: false,
      name: 'web 1',
      proofs: { by: 'default' },
      mountFlags: MS_RDONLY | MS_NOATIME | MS_NOSUID,
    },
  );
  assert.deepEqual(parseMountOptions('ro,rw', true), DEFAULTS);
});

test('sizes take k, m, g, t of either case, or bytes', () => {
  const sizes = ['cache=8388608', 'cache=8192k', 'cache=8M', 'cache=8MiB', 'cache=2G', 'cache=1t'];
  assert.deepEqual(
    sizes.map((text) => parseMountOptions(text, true).cacheBytes),
    [8 << 20, 8 << 20, 8 << 20, 8 << 20, 2 * 2 ** 30, 2 ** 40],
  );
});

test('what is wrong is named in one line', () => {
  assert.match(
    refusal('ro,foo=1'),
    /^EINVAL: unknown mount option "foo"; known are cache=SIZE, intr=fatal\|all, /,
  );
  assert.match(refusal('constructor'), /^EINVAL: unknown mount option "constructor"/);
  assert.equal(refusal('intr=some'), 'EINVAL: mount option intr is fatal or all, not "some"');
  assert.equal(refusal('driver'), 'EINVAL: mount option driver is native or fuse-native, not ""');
  assert.equal(refusal('retry=1'), 'EINVAL: mount option retry takes no value');
  assert.match(
    refusal('intr_grace=-1'),
    /^EINVAL: mount option intr_grace is a number of seconds, at least 0/,
  );
  for (const wrong of ['umount_timeout', 'umount_timeout=0', 'umount_timeout=1m']) {
    assert.match(refusal(wrong), /^EINVAL: mount option umount_timeout is a number of seconds, above 0/);
  }
  assert.equal(refusal('cache=1.5g'), 'EINVAL: mount option cache is a size like 256m or 1g, not "1.5g"');
  assert.equal(refusal('cache=1'), 'EINVAL: mount option cache must be at least 4m');
  assert.match(refusal('name='), /^EINVAL: mount option name needs a value/);
});

test('the mount table is read with its escapes and optional fields', () => {
  const text = [
    '28 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw',
    '40 28 0:35 / /mnt/a\\040b\\134c rw,nosuid - fuse.holdfast h:1,i:2 rw,user_id=0',
    '',
  ].join('\n');
  assert.deepEqual(parseMountTable(text), [
    { id: '28', device: '254:0', mountpoint: '/', type: 'ext4', source: '/dev/root' },
    { id: '40', device: '0:35', mountpoint: '/mnt/a b\\c', type: 'fuse.holdfast', source: 'h:1,i:2' },
  ]);
});
