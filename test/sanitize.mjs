#!/usr/bin/env node
/**
 * npm run sanitize [-- fuzz OPTION ...]: the addon's tests with the addon built under AddressSanitizer and
 * UndefinedBehaviorSanitizer; or the fuzz, with options of test/fixtures/fuzz/run.ts.
 * It builds in a copy of the package, in a temporary folder, and leaves the usual build alone. Needs dist (npm run build) and the
 * sanitizers' libraries, which come with g++. Leaks are not looked for: V8 frees nothing at its end.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const SANITIZERS = ['address', 'undefined'];
const TESTS = [
  'unit/native/absurd_arguments',
  'unit/native/crc32c',
  'unit/native/stream_socket',
  'unit/native/stream_socket_tls',
  'unit/runtime/node_block',
  'unit/runtime/node_tls',
  'unit/runtime/node_tls_certificates',
  'unit/runtime/node_tls_hostile',
  'unit/runtime/node_tls_listen',
  'unit/mount/native/driver',
  'contract/connection',
  'contract/block_device',
];

const folder = mkdtempSync(join(tmpdir(), 'holdfast-sanitize-'));
process.exitCode = 1;
try {
  for (const name of ['native', 'src', 'mount', 'test', 'dist', 'package.json', 'build.mjs']) {
    const built = join(root, 'native', 'build') + sep;
    cpSync(join(root, name), join(folder, name), {
      recursive: true,
      filter: (path) => !`${path}${sep}`.startsWith(built),
    });
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const flags = `-fsanitize=${SANITIZERS.join(',')}`;
  run(['native/build.mjs'], {
    CXXFLAGS: `${flags} -D_GLIBCXX_ASSERTIONS -fno-omit-frame-pointer -g -O1`,
    LDFLAGS: flags,
  });
  const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
    execFileSync(process.env.CXX ?? 'g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
  );
  const [command, ...options] = process.argv.slice(2);
  const files = TESTS.map((name) => `dist/test/${name}.test.js`);
  run(command === 'fuzz' ? ['dist/test/fixtures/fuzz/run.js', ...options] : ['--test', ...files], {
    LD_PRELOAD: libraries.join(' '),
    ASAN_OPTIONS: 'detect_leaks=0',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  });
  process.exitCode = 0;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** @throws Error when node ends with another status than 0. */
function run(args, env) {
  const { status, signal } = spawnSync(process.execPath, args, {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: 'inherit',
  });
  if (status !== 0) throw new Error(`node ${args.join(' ')} ended with ${signal ?? status}`);
}
