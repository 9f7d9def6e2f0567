/**
 * npm run package: makes holdfast-VERSION.tar.gz and holdfast_VERSION_ARCHITECTURE.deb of the tree that `npm run build` has built.
 * HELP says how it is called; packaging/tree.mjs says what is in a package, packaging/deb.mjs what the .deb adds.
 *
 * The same tree, Node and date make the same bytes: names are sorted, owners are root, times are those of SOURCE_DATE_EPOCH, or
 * of the commit.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { sourceDigest } from './build.mjs';
import { buildDeb, hasDpkg } from './packaging/deb.mjs';
import { PackageError } from './packaging/error.mjs';
import { makeTree } from './packaging/tree.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const FORMATS = ['tar.gz', 'deb'];
const HELP = `usage: npm run package -- [--out DIR] [--version VERSION] [--only tar.gz|deb] [--node FILE] [--node-license FILE]
  --out           folder for the packages (dist/package)
  --version       of the packages, instead of the one in package.json
  --only          one of both
  --node          the Node that the packages bring along, instead of the one that runs this
  --node-license  its licence, if it does not lie where Node's own archives and Debian have it`;

/** As in package.json (semver), in the letters that the name of a Debian package may have. */
const VERSION = /^\d+\.\d+\.\d+(?:-[a-z0-9]+(?:[.-][a-z0-9]+)*)?$/;

function fail(line, status = 1) {
  console.error(`holdfast: ${line}`);
  process.exit(status);
}

function optionsOf(argv) {
  const string = { type: 'string' };
  const options = { out: string, version: string, only: string, node: string, 'node-license': string };
  try {
    return parseArgs({ args: argv, options: { ...options, help: { type: 'boolean' } } }).values;
  } catch (error) {
    return fail(`${error.message}\n${HELP}`, 2);
  }
}

/** Seconds since 1970, for all times in the packages. */
function epochOf(root) {
  const given = process.env.SOURCE_DATE_EPOCH;
  if (given !== undefined) {
    if (/^\d{1,10}$/.test(given)) return Number(given);
    throw new PackageError(`SOURCE_DATE_EPOCH is seconds since 1970, not ${JSON.stringify(given)}`);
  }
  const git = spawnSync('git', ['-C', root, 'log', '-1', '--format=%ct'], { encoding: 'utf8' });
  if (git.status === 0) return Number(git.stdout.trim());
  throw new PackageError('this tree is no commit of git: set SOURCE_DATE_EPOCH to the seconds of its date');
}

function checkBuilt(root) {
  const file = join(root, 'dist', 'build.json');
  const digest = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).digest : undefined;
  if (digest !== sourceDigest(root))
    throw new PackageError('run "npm run build": dist is not of these sources');
  return digest;
}

function makeArchive(folder, name, file) {
  // gzip -n: no name and no time in its header.
  const tar = ['--sort=name', '--format=gnu', '--owner=0', '--group=0', '--numeric-owner'];
  const made = spawnSync('tar', [...tar, '--use-compress-program=gzip -n', '-C', folder, '-cf', file, name], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (made.status !== 0) throw new PackageError(`tar cannot make ${file}`);
}

function make({ out, version: wanted, only, node, license }) {
  const digest = checkBuilt(HERE);
  const version = wanted ?? JSON.parse(readFileSync(join(HERE, 'package.json'), 'utf8')).version;
  if (!VERSION.test(version))
    throw new PackageError(`the version ${JSON.stringify(version)} is not like 1.2.3 or 1.2.3-rc.1`);
  const formats = only === undefined ? FORMATS.filter((one) => one !== 'deb' || hasDpkg()) : [only];
  if (formats.includes('deb') && !hasDpkg())
    throw new PackageError('there is no dpkg-deb: apt-get install dpkg');
  if (only === undefined && !hasDpkg()) console.error('holdfast: there is no dpkg-deb, so no .deb is made');
  const epoch = epochOf(HERE);
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-package-'));
  try {
    const name = `holdfast-${version}`;
    const staged = join(folder, 'staged');
    const tree = join(staged, 'opt', name);
    const made = makeTree(HERE, tree, { version, digest, node, license, epoch });
    mkdirSync(out, { recursive: true });
    for (const format of formats) {
      const file = format === 'deb' ? `holdfast_${version}_${made.architecture}.deb` : `${name}.tar.gz`;
      // Under its name there is only a whole file.
      const partial = join(folder, file);
      if (format === 'deb') buildDeb(HERE, staged, partial, { ...made, version, digest, epoch });
      else makeArchive(join(staged, 'opt'), name, partial);
      const target = join(out, file);
      rmSync(target, { force: true });
      moveTo(partial, target);
      console.log(`${target} (${(statSync(target).size / 1e6).toFixed(1)} MB)`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The folder for temporary files may be another filesystem. */
function moveTo(from, to) {
  const near = `${to}.${process.pid}`;
  const copied = spawnSync('cp', [from, near], { stdio: ['ignore', 'inherit', 'inherit'] });
  if (copied.status !== 0) throw new PackageError(`cannot write ${near}`);
  renameSync(near, to);
}

// Nothing of whoever makes the packages gets into them.
process.umask(0o022);
const values = optionsOf(process.argv.slice(2));
if (values.help) {
  console.log(HELP);
} else {
  if (values.only !== undefined && !FORMATS.includes(values.only))
    fail(`--only is ${FORMATS.join(' or ')}\n${HELP}`, 2);
  try {
    make({
      out: resolve(values.out ?? join(HERE, 'dist', 'package')),
      version: values.version,
      only: values.only,
      node: resolve(values.node ?? process.execPath),
      license: values['node-license'],
    });
  } catch (error) {
    // A full disk or a folder that cannot be written is no bug either.
    if (!(error instanceof PackageError) && error.code === undefined) throw error;
    fail(error.message);
  }
}
