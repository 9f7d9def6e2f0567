/**
 * A reporter for node's test runner that says little: a line for each file, all about each failure, and the runner's own
 * summary at the end. What a file printed is shown if a test of it failed.
 */

import { relative } from 'node:path';
import { inspect } from 'node:util';

const PRINTED_MAX = 20_000;
const REASON_MAX = 8000;

/** Tests of one file, from its first event to its last: the runner reports one file after the other. */
class FileTally {
  constructor(file) {
    this.file = file;
    this.passed = 0;
    this.skipped = 0;
    this.failed = 0;
    this.ms = 0;
    this.printed = '';
  }

  line() {
    const { file, passed, skipped, failed, ms } = this;
    if (passed + skipped + failed === 0) return '';
    const parts = [`${passed} passed`];
    if (skipped > 0) parts.push(`${skipped} skipped`);
    if (failed > 0) parts.push(`${failed} failed`);
    const printed = failed > 0 ? this.printed.slice(-PRINTED_MAX) : '';
    const mark = failed > 0 ? '✖' : '✔';
    return `${printed}${mark} ${name(file)}: ${parts.join(', ')} (${(ms / 1000).toFixed(1)} s)\n`;
  }
}

function name(file) {
  return file === undefined ? 'tests' : relative(process.cwd(), file).replace(/^dist\/test\//, '');
}

function failure({ name: title, file, line, details }) {
  const { error } = details;
  const why = error?.cause instanceof Error ? error.cause : (error?.cause ?? error);
  return `✖ ${title}\n  at ${name(file)}:${line ?? '?'}\n${indent(inspect(why).slice(0, REASON_MAX))}\n`;
}

function indent(text) {
  return text.replace(/^/gm, '  ');
}

export default async function* quiet(source) {
  let tally = new FileTally(undefined);
  for await (const { type, data } of source) {
    const isOfFile =
      type === 'test:pass' || type === 'test:fail' || type === 'test:stdout' || type === 'test:stderr';
    if (isOfFile && data.file !== undefined && data.file !== tally.file) {
      yield tally.line();
      tally = new FileTally(data.file);
    }
    if (type === 'test:stdout' || type === 'test:stderr') {
      tally.printed += data.message;
    } else if (type === 'test:pass' || type === 'test:fail') {
      // A suite fails because a test in it did, which has been told.
      if (data.details.type === 'suite') continue;
      tally.ms += data.nesting === 0 ? data.details.duration_ms : 0;
      if (type === 'test:fail') {
        tally.failed += 1;
        yield failure(data);
      } else if (data.skip !== undefined || data.todo !== undefined) tally.skipped += 1;
      else tally.passed += 1;
    } else if (type === 'test:diagnostic' && data.file !== undefined) {
      // What a test has measured, or which seeds it has run.
      yield `  ${data.message}\n`;
    } else if (type === 'test:diagnostic' && data.nesting === 0) {
      // The summary; its words are what other programs look for.
      yield tally.line();
      tally = new FileTally(undefined);
      yield `ℹ ${data.message}\n`;
    }
  }
}
