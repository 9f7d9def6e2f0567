/**
 * passthrough_hp, the fastest of libfuse's examples, from the source package of the libfuse that is installed. Kept in the
 * user's cache folder by its version; nothing of it is part of this repository.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CliError } from '../../src/cli/failure.js';
import { runOk } from '../fixtures/child.js';

const PATIENCE_MS = 300_000;
/** What libfuse's own configure step finds on Linux. Without them the example refuses utimensat(2), xattrs and fallocate(2). */
const FEATURES = ['HAVE_UTIMENSAT', 'HAVE_SETXATTR', 'HAVE_POSIX_FALLOCATE'];
const SOURCES = '/etc/apt/sources.list.d';
const LIST = '/etc/apt/sources.list';

const command = (name: string, ...args: string[]): Promise<string> =>
  runOk(name, args, { timeoutMs: PATIENCE_MS });

/** The machine's package sources with source packages among them, for apt-get of this build alone. */
function sourcePackages(): string {
  const parts = existsSync(SOURCES) ? readdirSync(SOURCES).map((name) => join(SOURCES, name)) : [];
  const modern = parts.filter((path) => path.endsWith('.sources'));
  if (modern.length > 0) {
    return modern
      .map((path) => readFileSync(path, 'utf8').replace(/^Types:.*$/gm, 'Types: deb deb-src'))
      .join('\n\n');
  }
  const lists = [LIST, ...parts.filter((path) => path.endsWith('.list'))].filter(existsSync);
  return lists.map((path) => readFileSync(path, 'utf8').replace(/^deb /gm, 'deb-src ')).join('\n');
}

/** @returns the source of the example. */
async function fetchSource(folder: string): Promise<string> {
  const isModern = existsSync(SOURCES) && readdirSync(SOURCES).some((name) => name.endsWith('.sources'));
  const list = join(folder, isModern ? 'bench.sources' : 'bench.list');
  writeFileSync(list, sourcePackages());
  mkdirSync(join(folder, 'lists', 'partial'), { recursive: true });
  const settings = {
    'Dir::Etc::SourceList': list,
    'Dir::Etc::SourceParts': '/dev/null',
    'Dir::State::Lists': join(folder, 'lists'),
    'APT::Sandbox::User': 'root',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  await command('apt-get', ...options, '-qq', 'update');
  await command('env', '-C', folder, 'apt-get', ...options, '-qq', 'source', 'fuse3');
  const unpacked = readdirSync(folder, { withFileTypes: true }).find(
    (entry) => entry.isDirectory() && entry.name.startsWith('fuse'),
  );
  return join(folder, unpacked?.name ?? '', 'example', 'passthrough_hp.cc');
}

/** @returns the program. @throws CliError with what is missing. */
export async function builtPassthrough(): Promise<string> {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'holdfast-bench');
  const version = (await command('pkg-config', '--modversion', 'fuse3')).trim();
  const program = join(cache, `passthrough_hp-${version}-full`);
  if (existsSync(program)) return program;
  const folder = join(cache, `build-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  try {
    const source = await fetchSource(folder);
    const flags = (await command('pkg-config', '--cflags', '--libs', 'fuse3')).trim().split(/\s+/);
    const defines = FEATURES.map((feature) => `-D${feature}`);
    const built = join(folder, 'built');
    await command('g++', '-std=c++17', '-O2', '-w', '-pthread', ...defines, '-o', built, source, ...flags);
    renameSync(built, program);
    return program;
  } catch (thrown) {
    const why = (thrown as Error).message.slice(0, 500);
    throw new CliError(`cannot build passthrough_hp from the source package fuse3: ${why}`, 1, {
      cause: thrown,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
