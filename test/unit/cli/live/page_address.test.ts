/** Where a page may be served, and the file with its key. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isSafeHost, parsePageAddress, wrongPageOptions } from '../../../../src/cli/live/page_address.js';
import { PageKey } from '../../../../src/cli/live/page_key.js';
import { run } from '../../../fixtures/child.js';
import { thisTree } from '../../../fixtures/installed_tree.js';

test('a page is at HOST:PORT, or at a port of loopback', () => {
  assert.deepEqual(
    ['8080', 'localhost:1', '[::1]:2', '0.0.0.0:3', 'server.example:4'].map(parsePageAddress),
    [
      { host: '127.0.0.1', port: 8080 },
      { host: '127.0.0.1', port: 1 },
      { host: '::1', port: 2 },
      { host: '0.0.0.0', port: 3 },
      { host: 'server.example', port: 4 },
    ],
  );
  for (const text of ['', 'x', '1:2:3', '99999', 'unix:/run/page'])
    assert.throws(() => parsePageAddress(text), { code: 'commander.invalidArgument' });
});

test('only loopback needs no key', () => {
  const needs = (text: string, key?: string): boolean =>
    wrongPageOptions(parsePageAddress(text), key) !== undefined;
  assert.deepEqual(
    ['1', '127.9.9.9:1', '[::1]:1', '0.0.0.0:1', '[::]:1', '127.0.0.1.example:1', '10.0.0.1:1'].map((text) =>
      needs(text),
    ),
    [false, false, false, true, true, true, true],
  );
  assert.equal(needs('0.0.0.0:1', 'file'), false);
  assert.equal(wrongPageOptions(undefined, 'file'), '--http-key is for --http');
  assert.ok(isSafeHost('localhost:1') && !isSafeHost(undefined) && !isSafeHost(''));
});

test('the commands say in one line what to do', async () => {
  const main = thisTree().main;
  const refused = async (...args: string[]): Promise<readonly [number | null, string]> => {
    const { code, stderr } = await run(process.execPath, [main, ...args]);
    return [code, stderr.split('\n')[0] ?? ''];
  };
  const noKey =
    /^holdfast: --http at 0\.0\.0\.0, which other hosts reach, needs --http-key FILE: .* openssl rand/;
  const [served, said] = await refused('serve', '--meta', 'm', '--data', 'd', '--http', '0.0.0.0:80');
  assert.equal(served, 2);
  assert.match(said, noKey);
  const [fleet, also] = await refused('fleet', 'f.toml', '--http', '0.0.0.0:80');
  assert.equal(fleet, 2);
  assert.match(also, noKey);
  assert.match(
    (await refused('fleet', 'f.toml'))[1],
    /^holdfast: missing what to do: check, .*, or --http; see holdfast fleet --help$/,
  );
  assert.match((await refused('fleet', 'f.toml', 'status', '--http', '80'))[1], /without a verb/);
});

test('a key is a long line in a file of its owner', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-page-key-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'key');
  assert.throws(() => PageKey.read(path), { code: 'ENOENT', message: /openssl rand/ });
  for (const text of ['', 'short\n', 'with spaces in it, and long\n', `${'x'.repeat(257)}\n`]) {
    writeFileSync(path, text, { mode: 0o600 });
    assert.throws(
      () => PageKey.read(path),
      (error: Error) =>
        /is no key of 16/.test(error.message) && (text === '' || !error.message.includes(text)),
    );
  }
  writeFileSync(path, 'sixteen-or-more-characters\nnot this\n');
  const key = PageKey.read(path);
  const header = (password: string): string => `Basic ${Buffer.from(`:${password}`).toString('base64')}`;
  assert.deepEqual(
    [
      key.accepts(header('sixteen-or-more-characters')),
      key.accepts(header('not this')),
      key.accepts(undefined),
    ],
    [true, false, false],
  );
  chmodSync(path, 0o640);
  assert.throws(() => PageKey.read(path), { code: 'EACCES', message: /chmod 600/ });
});
