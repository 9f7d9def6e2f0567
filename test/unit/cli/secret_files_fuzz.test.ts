/** The fuzz of key files and certificate files: what must hold is in test/fixtures/fuzz/secret_files.ts. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readKeyFile } from '../../../src/cli/key_file.js';
import { fuzzCertificateFiles, fuzzKeyFiles } from '../../fixtures/fuzz/secret_files.js';
import { SimRng } from '../../sim/rng.js';

test('a damaged key file is a good key, or an error that does not tell the secret', () => {
  const { good, refused } = fuzzKeyFiles(new SimRng(1), 600);
  assert.ok(good > 50 && refused > 200, `${good} good, ${refused} refused`);
});

test('damaged certificate files can be used, or are an error that does not tell the private key', () => {
  const { good, refused } = fuzzCertificateFiles(new SimRng(1), 100);
  assert.ok(good > 5 && refused > 20, `${good} good, ${refused} refused`);
});

test('what is no file is no key file, and is not waited for', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-no-key-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', ['-m', '600', pipe]);
  assert.throws(() => readKeyFile(pipe), { code: 'EINVAL' });
});
