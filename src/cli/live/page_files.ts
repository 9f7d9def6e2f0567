/** The files of a live page. Read once: an upgrade may remove the tree of this version while its process still serves. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../../native/binding.js';

export type PageName = 'server' | 'fleet';

export interface PageFile {
  readonly type: string;
  readonly content: Buffer;
}

export interface PageFiles {
  /** By the path of the request. */
  readonly byPath: ReadonlyMap<string, PageFile>;
  /** Of all of them: a browser that has others loads the page again. */
  readonly digest: string;
}

/** Where bundle.mjs puts them. */
const FOLDER = join('dist', 'bin', 'live');
const DIGEST_CHARACTERS = 16;
/** In the HTML: the page knows which files it is made of. */
const DIGEST_PLACE = 'FILES-DIGEST';

export function readPageFiles(page: PageName, root: string = packageRoot()): PageFiles {
  const file = (name: string, type: string): PageFile => ({
    type,
    content: readFileSync(join(root, FOLDER, name)),
  });
  const byPath = new Map([
    ['/', file(`${page}.html`, 'text/html; charset=utf-8')],
    ['/page.js', file(`${page}.js`, 'text/javascript; charset=utf-8')],
    ['/page.css', file('page.css', 'text/css; charset=utf-8')],
    ['/icon.svg', file('icon.svg', 'image/svg+xml')],
  ]);
  const hash = createHash('sha256');
  for (const { content } of byPath.values()) hash.update(content);
  const digest = hash.digest('hex').slice(0, DIGEST_CHARACTERS);
  const html = byPath.get('/');
  if (html !== undefined) {
    const content = Buffer.from(html.content.toString('utf8').replace(DIGEST_PLACE, digest));
    byPath.set('/', { ...html, content });
  }
  return { byPath, digest };
}
