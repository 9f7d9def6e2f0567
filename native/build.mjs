/**
 * The package's install script: builds the native addon with node-gyp, unless it is newer than its sources. If the
 * headers that came with this node are installed, the build uses them, so it downloads nothing.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const BUILT = join(HERE, 'build', 'Release', 'holdfast_native.node');

function fail(reason) {
  console.error(
    `holdfast: cannot build the native addon: ${reason}. Install the tools with "apt-get install g++ make python3", ` +
      'then "npm rebuild". The addon is needed in any case: the fuse-native driver replaces its mounts, but not ' +
      'its block-device calls.',
  );
  process.exit(1);
}

function upToDate() {
  if (!existsSync(BUILT)) return false;
  const built = statSync(BUILT).mtimeMs;
  return readdirSync(HERE)
    .filter((name) => /\.(cc|h|gyp)$/.test(name))
    .every((name) => statSync(join(HERE, name)).mtimeMs <= built);
}

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

function build() {
  const compiler = process.env.CXX ?? 'g++';
  if (!runs(compiler)) fail(`there is no C++ compiler (${compiler})`);
  if (!runs('make')) fail('there is no make');
  if (!runs(process.env.PYTHON ?? 'python3')) fail('there is no python3');
  let gyp;
  try {
    gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  } catch {
    fail('node-gyp is not installed');
  }
  const args = ['rebuild', '--loglevel=error'];
  const nodedir = join(dirname(process.execPath), '..');
  if (existsSync(join(nodedir, 'include', 'node', 'node_api.h'))) args.push(`--nodedir=${nodedir}`);
  const made = spawnSync(process.execPath, [gyp, ...args], { cwd: HERE, encoding: 'utf8' });
  if (made.status === 0 && existsSync(BUILT)) return;
  process.stderr.write(`${made.stdout}${made.stderr}`);
  fail('node-gyp failed, see above');
}

if (!upToDate()) build();
