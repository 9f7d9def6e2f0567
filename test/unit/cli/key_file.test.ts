/** The file with a client's key: its text, who may read it, and what is no such file. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { proverOf } from '../../../src/cli/credentials.js';
import { type ClientKey, checkPrivateKey, formatKey, readKeyFile } from '../../../src/cli/key_file.js';

const KEY: ClientKey = {
  label: 'projects of 2026',
  targetUuid: '6ad1a0f3-9c5e-4c53-8c5b-0a4f5cf4c6b1',
  name: 'web-1.example',
  id: '0123456789abcdef',
  secret: Buffer.from('0123456789abcdef0123456789abcdef'),
};

function fileOf(t: TestContext, text: string, mode = 0o600): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-key-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'a.key');
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

test('a key file is read as it was written', (t) => {
  assert.deepEqual(readKeyFile(fileOf(t, formatKey(KEY))), KEY);
  // Further lines of a later release, of people, and line ends of other systems.
  const more = `# mine\nexpires never\n${formatKey(KEY).replaceAll('\n', '\r\n')}\ncolour blue\n`;
  assert.deepEqual(readKeyFile(fileOf(t, more)), KEY);
  assert.deepEqual(readKeyFile(fileOf(t, formatKey(KEY), 0o400)), KEY);
});

test('a key file that others may read is refused, with the command that mends it', (t) => {
  for (const mode of [0o640, 0o604, 0o666, 0o620, 0o601]) {
    const path = fileOf(t, formatKey(KEY), mode);
    assert.throws(() => readKeyFile(path), { code: 'EACCES', message: new RegExp(`chmod 600 ${path}`) });
  }
  // A link has no mode of its own.
  const path = fileOf(t, formatKey(KEY), 0o644);
  symlinkSync(path, `${path}.link`);
  assert.throws(() => readKeyFile(`${path}.link`), { code: 'EACCES' });
});

test('a key file of another user is refused', { skip: process.geteuid?.() !== 0 && 'needs root' }, (t) => {
  const path = fileOf(t, formatKey(KEY));
  chownSync(path, 65_534, 65_534);
  assert.throws(() => readKeyFile(path), { code: 'EACCES', message: /belongs to user 65534/ });
});

test('a device, a pipe or a folder is no key file, and nobody is told to change its mode', {
  timeout: 10_000,
}, (t) => {
  const folder = join(fileOf(t, ''), '..');
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  for (const path of ['/dev/zero', '/dev/null', pipe, folder]) {
    assert.throws(() => readKeyFile(path), { code: 'EINVAL', message: `${path} is no key file` });
  }
});

test('the private key of a certificate may be read by a group, and not by all', (t) => {
  for (const mode of [0o400, 0o600, 0o640, 0o440]) checkPrivateKey(fileOf(t, 'PEM', mode));
  for (const mode of [0o644, 0o604, 0o660, 0o666, 0o602]) {
    const path = fileOf(t, 'PEM', mode);
    assert.throws(() => checkPrivateKey(path), { code: 'EACCES', message: new RegExp(`chmod 600 ${path}`) });
    const files = { certificate: '/nonexistent/cert', key: path, ca: '/nonexistent/ca' };
    assert.throws(() => proverOf({ by: 'certificate', files }), { code: 'EACCES' });
  }
  checkPrivateKey('/nonexistent/key');
});

test('a key that the user names has to be of the target, the usual one need not', (t) => {
  const path = fileOf(t, formatKey(KEY));
  assert.deepEqual(proverOf({ by: 'key', path }).claim, { name: KEY.name });
});

test('what is no key file is refused with one line, which has nothing of the secret', (t) => {
  const whole = formatKey(KEY);
  const secret = KEY.secret.toString('base64');
  const bad: [text: string, code: string][] = [
    ['', 'EINVAL'],
    ['-----BEGIN PRIVATE KEY-----\n', 'EINVAL'],
    [whole.replace('holdfast-key 1', 'holdfast-key 2'), 'EINVAL'],
    [whole.replace(secret, secret.slice(4)), 'EINVAL'],
    [whole.replace(secret, `${secret}${secret}`), 'EINVAL'],
    [whole.replace(/^secret.*$/m, ''), 'EINVAL'],
    [whole.replace(/^id.*$/m, 'id ../../etc'), 'EINVAL'],
    [whole.replace(/^target.*$/m, 'target x'), 'EINVAL'],
    [`${whole}${'#'.repeat(5000)}`, 'EINVAL'],
  ];
  for (const [text, code] of bad) {
    assert.throws(
      () => readKeyFile(fileOf(t, text)),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, code, text);
        assert.ok(
          !error.message.includes('\n') && !error.message.includes(secret.slice(0, 8)),
          error.message,
        );
        return true;
      },
    );
  }
  assert.throws(() => readKeyFile('/nonexistent/a.key'), { code: 'ENOENT', message: /holdfast access add/ });
});
