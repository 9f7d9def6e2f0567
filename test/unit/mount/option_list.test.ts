/** The list of mount options that users read is the one that parseMountOptions reads. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FLAG_OPTIONS, OWN_OPTIONS, wordParts } from '../../../mount/option_list.js';
import { MOUNT_FLAG_WORDS, parseMountOptions } from '../../../mount/options.js';
import { packageRoot } from '../../../native/binding.js';

/** A value for what the list says that an option takes. */
const VALUES: Readonly<Record<string, string>> = {
  SIZE: '64m',
  SECONDS: '2',
  NAME: 'web1',
  FILE: 'file',
  NUMBER: '5',
  ADDRESS: '9464',
  TIME: '200ms',
};

test('every option of the list is one, with each value that the list names', () => {
  for (const { word } of OWN_OPTIONS) {
    const { name, value, isOptional } = wordParts(word);
    const values = value === undefined ? [] : value.includes('|') ? value.split('|') : [VALUES[value] ?? ''];
    const texts = [
      ...values.map((one) => `${name}=${one}`),
      ...(value === undefined || isOptional ? [name] : []),
    ];
    // A certificate is three files.
    const rest = ['cert', 'ca'].includes(name) ? ',key=f,cert=f,ca=f' : '';
    for (const text of texts) assert.doesNotThrow(() => parseMountOptions(`${text}${rest}`, true), text);
  }
  assert.deepEqual(
    FLAG_OPTIONS.map(({ word }) => word),
    [...MOUNT_FLAG_WORDS],
  );
});

test('docs/OPERATIONS.md and docs/TRUST.md name every option of the list', () => {
  const pages = ['OPERATIONS.md', 'TRUST.md'].map((name) =>
    readFileSync(join(packageRoot(), 'docs', name), 'utf8'),
  );
  const missing = OWN_OPTIONS.map(({ word }) => wordParts(word).name).filter(
    (name) => !pages.some((text) => new RegExp(`\\b${name}\\b`).test(text)),
  );
  assert.deepEqual(missing, []);
});
