/**
 * npm run build: compiles, bundles the programs (bundle.mjs), writes down what this build is, and writes man pages and completions.
 *
 * dist/build.json holds the digest of the sources that were compiled: SHA-256 over the path and the bytes of each file of
 * the product, in the order of their paths. The same sources have the same digest on every machine, and the version of the
 * software is VERSION+DIGEST (src/cli/installed.ts): two builds of one package version are not the same software.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
/** What the product is made of, and what of it counts. The addon's build folder does not. */
const SOURCES = [
  ['src', /\.(ts|css|html|svg)$/],
  ['native', /^native\/[^/]+\.(cc|h|gyp|mjs|ts)$/],
  ['mount', /./],
];
/** 48 bits: enough to tell builds apart, short enough to be read out. */
const DIGEST_CHARACTERS = 12;

/** @returns the digest of the product's sources below `root`, in lower-case hex. */
export function sourceDigest(root) {
  const paths = SOURCES.flatMap(([folder, counts]) =>
    readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1))
      .filter((path) => counts.test(path)),
  );
  const hash = createHash('sha256');
  for (const path of paths.sort()) {
    const bytes = readFileSync(join(root, path));
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex').slice(0, DIGEST_CHARACTERS);
}

async function build() {
  const compiler = join(HERE, 'node_modules', 'typescript', 'bin', 'tsc');
  // The second one is what browsers run: only checked here, bundle.mjs makes it.
  for (const project of [HERE, join(HERE, 'src', 'cli', 'live', 'browser')]) {
    const { status } = spawnSync(process.execPath, [compiler, '-p', project], { stdio: 'inherit' });
    if (status !== 0) process.exit(status ?? 1);
  }
  const digest = sourceDigest(HERE);
  // Loaded here: a caller that only asks for the digest (a test) needs no bundler.
  const { bundle } = await import('./bundle.mjs');
  await bundle(HERE);
  writeFileSync(join(HERE, 'dist', 'build.json'), `${JSON.stringify({ digest })}\n`);
  writePages(HERE);
}

/** What the program says about its own commands, as files that `holdfast install` puts in their places. */
const PAGES = [
  ['man/man8/holdfast.8', 'man-page', 'holdfast'],
  ['man/man8/mount.holdfast.8', 'man-page', 'mount.holdfast'],
  ['completion/holdfast', 'completion', 'bash'],
  ['completion/_holdfast', 'completion', 'zsh'],
];

/** Runs the built program of the tree `root`, and writes dist/share of it. @param node that runs it. */
export function writePages(root, node = process.execPath) {
  for (const [path, ...args] of PAGES) {
    const { status, stdout } = spawnSync(node, [join(root, 'dist', 'bin', 'main.js'), ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (status !== 0) throw new Error(`cannot write dist/share/${path}`);
    const file = join(root, 'dist', 'share', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, stdout);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build();
