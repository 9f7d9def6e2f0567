/**
 * The tree of a package: everything that a host needs to run this version, in one folder, and nothing that is only for building.
 *
 *   bin/        Node, and programs of sh that run it: holdfast, mount.holdfast, umount.holdfast
 *   dist/       the bundled programs (bundle.mjs), build.json, man pages and completions
 *   native/     the addon and the keeper, built
 *   node_modules/  packages with native code or of their own: only the files that are loaded, as the bundler finds them
 *   mount/      systemd's units, the resource agent, the file for logrotate, examples of fleets
 *   docs/, licenses/, LICENSE, CHANGELOG.md, package.json
 *
 * Each version brings the Node along that it was built and tested with. Debian 12 has Node 18, which is too old; and if versions
 * lie side by side, an upgrade of Debian's Node must not change the ones that run.
 */

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { buildSync } from 'esbuild';
import { writePages } from '../build.mjs';
import { EXTERNAL_PACKAGES } from '../bundle.mjs';
import { PackageError } from './error.mjs';

/** The addon, and the keeper, which is a program. */
const NATIVE = ['native/build/Release/holdfast_native.node', 'native/build/Release/holdfast_keeper'];
const DEBIAN_ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' };
const COPIED = [
  'dist/bin',
  'dist/build.json',
  'mount/systemd',
  'mount/ocf',
  'mount/logrotate',
  'mount/monitoring',
  'mount/fleet',
  'docs',
  'LICENSE',
  'CHANGELOG.md',
];
/** Dependencies that are only for building. */
const BUILD_ONLY = ['node-gyp', 'node-addon-api', 'napi-macros'];
/** The programs of bin and the file of dist/bin that each runs. */
const PROGRAMS = {
  holdfast: 'main',
  'mount.holdfast': 'mount_holdfast',
  'umount.holdfast': 'umount_holdfast',
};

/**
 * @param tree new folder for it.
 * @returns the architecture as Debian names it, and the paths of all files with native code.
 * @throws PackageError
 */
export function makeTree(root, tree, { version, node, license, epoch }) {
  const about = nodeFacts(node);
  mkdirSync(join(tree, 'bin'), { recursive: true });
  for (const path of COPIED) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    cpSync(join(root, path), join(tree, path), { recursive: true });
  }
  for (const path of NATIVE) {
    if (!existsSync(join(root, path)))
      throw new PackageError(`${path} is not built: run "node native/build.mjs"`);
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    copyFileSync(join(root, path), join(tree, path));
  }
  copyFileSync(node, join(tree, 'bin', 'node'));
  for (const [name, file] of Object.entries(PROGRAMS)) {
    writeFileSync(
      join(tree, 'bin', name),
      readFileSync(join(root, 'packaging', 'program.sh'), 'utf8').replace('@FILE@', file),
    );
  }
  const { name, description, license: terms, type, engines } = readJson(join(root, 'package.json'));
  writeFileSync(
    join(tree, 'package.json'),
    `${JSON.stringify({ name, version, description, license: terms, type, engines, private: true }, null, 2)}\n`,
  );
  copyPackages(root, tree, about);
  copyLicenses(root, tree, nodeLicense(node, license));
  // By the Node of the package: it also shows that it runs this tree.
  writePages(tree, node);
  const natives = settle(tree, epoch);
  return { architecture: about.architecture, nodeVersion: about.version, natives };
}

function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}

function nodeFacts(node) {
  const script =
    'const { arch, version, versions } = process; console.log(JSON.stringify({ arch, version, modules: versions.modules }))';
  const asked = spawnSync(node, ['-e', script], { encoding: 'utf8' });
  if (asked.status !== 0 || !asked.stdout.startsWith('{'))
    throw new PackageError(`${node} is no Node that runs here`);
  const { arch, version, modules } = JSON.parse(asked.stdout);
  const architecture = DEBIAN_ARCHITECTURES[arch];
  if (architecture === undefined || arch !== process.arch)
    throw new PackageError(`${node} is for ${arch}; packages are for x64 and arm64, and made on the same`);
  return { arch, architecture, version, modules };
}

/** Where Node's archives, Debian and npm have it. */
function nodeLicense(node, given) {
  const prefix = dirname(dirname(node));
  const places =
    given === undefined
      ? ['LICENSE', 'share/doc/node/LICENSE', 'share/doc/nodejs/LICENSE', 'share/doc/nodejs/copyright'].map(
          (place) => join(prefix, place),
        )
      : [given];
  const found = places.find((place) => existsSync(place));
  if (found === undefined)
    throw new PackageError(`no licence of Node (${places.join(', ')}): name it with --node-license`);
  return found;
}

/** Files of the external packages that can be loaded, as the bundler finds them from their entries, and their native code. */
function copyPackages(root, tree, about) {
  const present = EXTERNAL_PACKAGES.filter((name) => existsSync(join(root, 'node_modules', name)));
  const { metafile } = buildSync({
    absWorkingDir: root,
    stdin: {
      contents: present.map((name) => `require(${JSON.stringify(name)});`).join('\n'),
      resolveDir: root,
    },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    write: false,
    metafile: true,
    loader: { '.node': 'empty' },
    logLevel: 'error',
  });
  const files = Object.keys(metafile.inputs).filter((path) => path.startsWith('node_modules/'));
  const folders = new Set(files.map((path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)[1]));
  for (const scope of ['@lmdb', '@msgpackr-extract']) {
    for (const name of readdirSync(join(root, 'node_modules', scope)))
      folders.add(`node_modules/${scope}/${name}`);
  }
  for (const folder of folders) {
    files.push(`${folder}/package.json`);
    if (existsSync(join(root, folder, 'index.js'))) files.push(`${folder}/index.js`);
    files.push(...nativeFiles(root, folder, about));
  }
  for (const file of new Set(files)) {
    mkdirSync(dirname(join(tree, file)), { recursive: true });
    copyFileSync(join(root, file), join(tree, file));
  }
}

/** What fits the Node of the package and glibc: prebuilt beside the package.json, or built into build/Release. */
function nativeFiles(root, folder, { modules }) {
  const beside = readdirSync(join(root, folder)).filter(
    (name) => name === `node.abi${modules}.glibc.node` || name === 'node.napi.glibc.node',
  );
  const built = join(root, folder, 'build', 'Release');
  const inBuild = existsSync(built) ? readdirSync(built).filter((name) => name.endsWith('.node')) : [];
  return [...beside, ...inBuild.map((name) => `build/Release/${name}`)].map((name) => `${folder}/${name}`);
}

/** Of everything that is not ours: packages in the bundles too. */
function copyLicenses(root, tree, ofNode) {
  const folder = join(tree, 'licenses');
  mkdirSync(folder);
  copyFileSync(ofNode, join(folder, 'node'));
  for (const [name, path] of dependencies(root)) {
    const file = readdirSync(path).find((one) => /^licen[sc]e(\.\w+)?$/i.test(one));
    const text =
      file === undefined
        ? `${readJson(join(path, 'package.json')).license}, as its package.json says\n`
        : readFileSync(join(path, file), 'utf8');
    writeFileSync(join(folder, name.replace('/', '-')), text);
  }
}

/** All packages that the product needs when it runs, by their names. */
function dependencies(root) {
  const found = new Map();
  const visit = (description, from) => {
    for (const name of Object.keys({ ...description.dependencies, ...description.optionalDependencies })) {
      const nested = join(from, 'node_modules', name);
      const path = existsSync(nested) ? nested : join(root, 'node_modules', name);
      // Native parts for other platforms are not there.
      if (BUILD_ONLY.includes(name) || found.has(name) || !existsSync(path)) continue;
      found.set(name, path);
      visit(readJson(join(path, 'package.json')), path);
    }
  };
  visit(readJson(join(root, 'package.json')), root);
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Sets modes and times of everything. @returns the paths of files with native code. */
function settle(folder, epoch) {
  const natives = [];
  const walk = (path) => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const below = join(path, entry.name);
      if (entry.isDirectory()) walk(below);
      else if (entry.isFile()) {
        const isKeeper = below.endsWith('/holdfast_keeper');
        const isProgram = dirname(below) === join(folder, 'bin') || below.includes('/mount/ocf/') || isKeeper;
        chmodSync(below, isProgram ? 0o755 : 0o644);
        if (below.endsWith('.node') || below === join(folder, 'bin', 'node') || isKeeper) natives.push(below);
      }
      lutimesSync(below, epoch, epoch);
    }
    chmodSync(path, 0o755);
    lutimesSync(path, epoch, epoch);
  };
  walk(folder);
  return natives;
}
