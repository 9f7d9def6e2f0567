/**
 * The .deb: the tree as /opt/holdfast-VERSION, and scripts that run the tree's own `holdfast install`.
 *
 * - The version is part of the package's name (holdfast-0.2.0), so dpkg keeps two versions at once. What they have in common (the
 *   link /opt/holdfast and what leads through it) belongs to none of them: `holdfast install` makes it and takes it away.
 * - The file is named holdfast_VERSION_ARCHITECTURE.deb, as people look for it.
 * - The Debian version is VERSION+DIGEST, what `holdfast --version` says: dpkg knows two builds of one version apart.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, lutimesSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PackageError } from './error.mjs';

const SCRIPTS = ['preinst', 'postinst', 'prerm', 'postrm'];
/** The GCC whose libstdc++ brought a version of GLIBCXX, and with it the version of Debian's package. */
const GCC_OF_GLIBCXX = [
  [21, '5'],
  [22, '6'],
  [24, '7'],
  [25, '8'],
  [28, '9'],
  [29, '11'],
  [30, '12'],
  [32, '13'],
  [33, '14'],
  [34, '15'],
];

export function hasDpkg() {
  return spawnSync('dpkg-deb', ['--version'], { stdio: 'ignore' }).status === 0;
}

/** @param folder with the tree in opt, and nothing else. @param file the .deb to make. @throws PackageError */
export function buildDeb(root, folder, file, { version, digest, architecture, nodeVersion, natives, epoch }) {
  const description = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).description;
  const opt = filesBelow(join(folder, 'opt'));
  const sums = opt.map(
    (path) =>
      `${createHash('md5').update(readFileSync(path)).digest('hex')}  ${path.slice(folder.length + 1)}`,
  );
  const kilobytes = opt.reduce((sum, path) => sum + Math.ceil(readFileSync(path).length / 1024), 0);
  const control = [
    `Package: holdfast-${version}`,
    `Version: ${debianVersion(version)}+${digest}`,
    'Section: admin',
    'Priority: optional',
    `Architecture: ${architecture}`,
    'Maintainer: The Holdfast authors <holdfast@localhost>',
    `Installed-Size: ${kilobytes}`,
    `Depends: ${librariesOf(natives).join(', ')}`,
    'Suggests: logrotate, pacemaker, resource-agents, fuse3, libfuse2',
    `Provides: holdfast (= ${debianVersion(version)})`,
    `Description: ${description}`,
    ` Version ${version}, with Node ${nodeVersion.replace('v', '')}, in /opt/holdfast-${version}. Other versions can be installed`,
    ' beside it; "holdfast use" says which one is in use.',
  ];
  const debian = join(folder, 'DEBIAN');
  mkdirSync(debian);
  writeFileSync(join(debian, 'control'), `${control.join('\n')}\n`);
  writeFileSync(join(debian, 'md5sums'), `${sums.join('\n')}\n`);
  for (const name of SCRIPTS) {
    const text = readFileSync(join(root, 'packaging', name), 'utf8');
    writeFileSync(join(debian, name), text.replaceAll('@VERSION@', version).replaceAll('@DIGEST@', digest));
    chmodSync(join(debian, name), 0o755);
  }
  for (const path of [join(folder, 'opt'), folder]) {
    chmodSync(path, 0o755);
    lutimesSync(path, epoch, epoch);
  }
  // zstd: dpkg of Debian 12 and later reads it; xz takes twenty times as long and saves a sixth.
  const made = spawnSync('dpkg-deb', ['--root-owner-group', '-Zzstd', '--build', folder, file], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
    encoding: 'utf8',
  });
  if (made.status !== 0) throw new PackageError(`dpkg-deb cannot make ${file}: ${made.stderr.trim()}`);
}

/** A release comes after its candidates: 1.0.0-rc.1 is 1.0.0~rc.1 for dpkg. */
function debianVersion(version) {
  return version.replace('-', '~');
}

/** Of readelf, which comes with the compiler of the addon. */
function librariesOf(natives) {
  const read = spawnSync('readelf', ['--version-info', '--wide', ...natives], {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (read.status !== 0)
    throw new PackageError(`readelf cannot read ${natives.join(', ')}: ${read.stderr ?? read.error.message}`);
  const newest = (pattern) =>
    Math.max(...[...read.stdout.matchAll(pattern)].map(([, number]) => Number(number)));
  const glibcxx = newest(/GLIBCXX_3\.4\.(\d+)/g);
  const gcc = GCC_OF_GLIBCXX.find(([least]) => least >= glibcxx)?.[1];
  if (gcc === undefined)
    throw new PackageError(`which libstdc++6 has GLIBCXX_3.4.${glibcxx} is not known here`);
  return [`libc6 (>= 2.${newest(/GLIBC_2\.(\d+)/g)})`, 'libgcc-s1', `libstdc++6 (>= ${gcc})`];
}

function filesBelow(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}
