/**
 * The programs that users run, as npm run build makes them: dist/bin, files of CommonJS.
 *
 * A process that loads 250 module files needs half a second of processor time until it is ready, most of it for the files
 * (docs/MEASURED.md). So a program is one small file, and each command that needs the server, the client or the store is one
 * file more, loaded when the user chooses it. These files are:
 * - CommonJS, because Node loads it faster than ES modules.
 * - flat: behind an import() that stays inside a file, esbuild wraps modules in functions, which V8 parses twice.
 * - not minified: stack traces name functions and lines that people can read, even without the source map.
 *
 * Each file has its own copy of the modules it shares with others. So between main.js and a command only data and errors
 * cross, and the receiver judges them by their fields, never by instanceof (src/cli/failure.ts).
 *
 * The programs need nothing else of dist but build.json. dist/src, dist/mount and dist/native are what tests import.
 */

import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { build } from 'esbuild';

/** Files of src/cli; in dist/bin they lie in the same places to each other, because they find each other by path. */
const PROGRAMS = ['main', 'mount_holdfast', 'umount_holdfast', 'demo/worker'];
const COMMANDS = [
  'serve_run',
  'mount_run',
  'mkfs_run',
  'grow_run',
  'fsck_run',
  'pages_run',
  'capabilities_run',
  'fleet/facts_run',
  'fleet/run',
  'demo/run',
];

/** The live pages: what browsers run, in a folder of dist/bin, and the files beside it that are as they are. */
const PAGES = ['server', 'fleet'];
const PAGE_FILES = ['server.html', 'fleet.html', 'page.css', 'icon.svg'];

/** Packages with native code or files of data, which they find beside their own code, and one that only --metrics loads. */
export const EXTERNAL_PACKAGES = ['fuse-native', 'lmdb', 'msgpackr-extract', 'prom-client'];

/** An ES module knows its address; the same code in CommonJS is told it. */
const MODULE_ADDRESS = 'holdfastModuleAddress';
const PROLOGUE = `const ${MODULE_ADDRESS} = require('node:url').pathToFileURL(__filename).href;`;

/** Leaves the import() of a command as it is: that of a file beside the program. */
const commandsApart = {
  name: 'commands apart',
  setup(builder) {
    builder.onResolve({ filter: /^\./ }, ({ path, kind }) => {
      const isCommand = kind === 'dynamic-import' && COMMANDS.some((name) => path === `./${name}.js`);
      return isCommand ? { path, external: true } : undefined;
    });
  },
};

/** @param root folder of the package. @throws Error if the bundler refuses something; it has printed the reason. */
export async function bundle(root) {
  const folder = join(root, 'dist', 'bin');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  // The package's own package.json says that .js files are ES modules.
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }\n');
  await build({
    absWorkingDir: root,
    entryPoints: [...PROGRAMS, ...COMMANDS].map((name) => `src/cli/${name}.ts`),
    outbase: 'src/cli',
    outdir: relative(root, folder),
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node22',
    // require() of a CommonJS file is cheaper than import() of one.
    supported: { 'dynamic-import': false },
    external: EXTERNAL_PACKAGES,
    plugins: [commandsApart],
    define: { 'import.meta.url': MODULE_ADDRESS },
    banner: { js: PROLOGUE },
    sourcemap: 'external',
    sourcesContent: false,
    logLevel: 'warning',
  });
  await bundlePages(root, join(folder, 'live'));
}

async function bundlePages(root, folder) {
  const from = join(root, 'src', 'cli', 'live', 'browser');
  await build({
    absWorkingDir: root,
    entryPoints: PAGES.map((name) => join(from, `${name}.ts`)),
    outdir: folder,
    bundle: true,
    platform: 'browser',
    format: 'esm',
    target: 'es2022',
    logLevel: 'warning',
  });
  for (const name of PAGE_FILES) copyFileSync(join(from, name), join(folder, name));
}
