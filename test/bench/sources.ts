/**
 * What programs begin with, on the machine's own disk and made anew in each run of the bench: nothing is fetched. Each is made
 * when the first row asks for it, and is the same on every machine.
 */

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runOk } from '../fixtures/child.js';

const TAR_FILES = 5000;
const GIT_FILES = 1500;
const NPM_PACKAGES = 200;
const C_FILES = 200;
const FILES_IN_A_FOLDER = 50;
const FILES_IN_A_PACKAGE = 8;
const PATIENCE_MS = 120_000;

/** Lines of text that compress about as source code does. */
function text(seed: number, lines: number): string {
  let state = seed + 1;
  return Array.from({ length: lines }, (_, at) => {
    state = (state * 48_271) % 2_147_483_647;
    return `const name_${at} = ${state} + other_${state % 97};`;
  }).join('\n');
}

/** Files of 0.1 to 4 KiB, 50 in a folder. */
function makeTree(folder: string, files: number): void {
  for (let at = 0; at < files; at++) {
    const inside = join(folder, `part-${Math.floor(at / FILES_IN_A_FOLDER)}`);
    mkdirSync(inside, { recursive: true });
    writeFileSync(join(inside, `file-${at}.js`), text(at, 2 + ((at * 37) % 90)));
  }
}

export class Sources {
  readonly #folder: string;
  readonly #made = new Map<string, Promise<string>>();
  readonly counts: {
    readonly tarFiles: number;
    readonly gitFiles: number;
    readonly npmPackages: number;
    readonly cFiles: number;
  };

  /** @param part of the usual number of files: 1, or less. */
  constructor(folder: string, part: number) {
    mkdirSync(folder);
    this.#folder = folder;
    this.counts = {
      tarFiles: TAR_FILES * part,
      gitFiles: GIT_FILES * part,
      npmPackages: NPM_PACKAGES * part,
      cFiles: C_FILES * part,
    };
  }

  #once(name: string, make: (path: string) => Promise<void>): Promise<string> {
    const path = join(this.#folder, name);
    let made = this.#made.get(name);
    if (made === undefined) {
      made = make(path).then(() => path);
      this.#made.set(name, made);
    }
    return made;
  }

  /** A tar file of many small files. */
  tar(): Promise<string> {
    return this.#once('tree.tar', async (path) => {
      const tree = join(this.#folder, 'tree');
      makeTree(tree, this.counts.tarFiles);
      await runOk('tar', ['-cf', path, '-C', this.#folder, 'tree'], { timeoutMs: PATIENCE_MS });
    });
  }

  /** A bare repository of many small files in one commit. */
  repository(): Promise<string> {
    return this.#once('repository.git', async (path) => {
      const tree = join(this.#folder, 'checkout');
      makeTree(tree, this.counts.gitFiles);
      const git = (...args: string[]): Promise<string> =>
        runOk('git', ['-C', tree, '-c', 'user.name=bench', '-c', 'user.email=bench@localhost', ...args], {
          timeoutMs: PATIENCE_MS,
        });
      await git('init', '--quiet');
      await git('add', '.');
      await git('commit', '--quiet', '--message', 'everything');
      await git('clone', '--quiet', '--bare', tree, path);
    });
  }

  /**
   * A folder with package.json and package-lock.json of a project, whose packages are tar files beside them,
   * and the cache that npm makes of them.
   */
  npmProject(): Promise<string> {
    return this.#once('npm', async (path) => {
      const packed = join(path, 'packages');
      mkdirSync(packed, { recursive: true });
      const dependencies: Record<string, string> = {};
      const locked: Record<string, object> = {};
      for (let at = 0; at < this.counts.npmPackages; at++) {
        const name = `package-${at}`;
        const content = join(path, 'content', name);
        mkdirSync(join(content, 'package', 'lib'), { recursive: true });
        const about = { name, version: '1.0.0', main: 'lib/file-0.js' };
        writeFileSync(join(content, 'package', 'package.json'), JSON.stringify(about));
        for (let file = 1; file < FILES_IN_A_PACKAGE; file++) {
          writeFileSync(join(content, 'package', 'lib', `file-${file}.js`), text(at * 100 + file, 40));
        }
        const tarball = join(packed, `${name}.tgz`);
        await runOk('tar', ['-czf', tarball, '-C', content, 'package'], { timeoutMs: PATIENCE_MS });
        const source = `file:${tarball}`;
        dependencies[name] = source;
        const integrity = `sha512-${createHash('sha512').update(readFileSync(tarball)).digest('base64')}`;
        locked[`node_modules/${name}`] = { version: '1.0.0', resolved: source, integrity };
      }
      const project = { name: 'project', version: '1.0.0' };
      const root = { ...project, dependencies };
      writeFileSync(join(path, 'package.json'), JSON.stringify(root));
      const lock = { ...project, lockfileVersion: 3, requires: true, packages: { '': root, ...locked } };
      writeFileSync(join(path, 'package-lock.json'), JSON.stringify(lock));
      mkdirSync(join(path, 'cache'));
    });
  }

  /** A folder with C files and a Makefile that compiles each. */
  cProject(): Promise<string> {
    return this.#once('c', async (path) => {
      mkdirSync(path);
      const names = Array.from({ length: this.counts.cFiles }, (_, at) => `unit-${at}`);
      names.forEach((name, at) => {
        const body = `int main_${at}(int x) { printf("%d ${at}", x); return (int)strlen("x") + x * ${at}; }`;
        writeFileSync(join(path, `${name}.c`), `#include <stdio.h>\n#include <string.h>\n${body}\n`);
      });
      const objects = names.map((name) => `${name}.o`).join(' ');
      const rules = [
        `all: library.a`,
        `library.a: ${objects}`,
        '\tar rc $@ $^',
        '%.o: %.c',
        '\tgcc -O0 -c -o $@ $<',
      ];
      writeFileSync(join(path, 'Makefile'), `${rules.join('\n')}\n`);
    });
  }
}
