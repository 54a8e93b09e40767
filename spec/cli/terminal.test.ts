import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { colorMode, openTerminal } from '../../src/cli/terminal.js';

function outputOf(
  isTTY: boolean,
  columns = 80,
): { text: string; write(text: string): void; isTTY: boolean; columns: number } {
  return {
    text: '',
    write(text) {
      this.text += text;
    },
    isTTY,
    columns,
  };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('plain progress', () => {
  it('is a line a step, and how long it took when it took long', () => {
    const output = outputOf(false);
    using terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('reading');
    vi.advanceTimersByTime(200);
    terminal.step('booting the box');
    vi.advanceTimersByTime(41_200);
    terminal.done();
    expect(output.text).toBe('reading\nbooting the box\n  done in 41.2 s\n');
  });

  it('repeats details only now and then', () => {
    const output = outputOf(false);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('downloading');
    for (let i = 0; i < 200; i++) {
      vi.advanceTimersByTime(110);
      terminal.detail(`${i} of 200 MB`);
    }
    expect(output.text).toBe('downloading\n  90 of 200 MB\n  181 of 200 MB\n');
  });

  it('says what failed', () => {
    const output = outputOf(false);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('booting');
    vi.advanceTimersByTime(2000);
    terminal.failed();
    expect(output.text).toBe('booting\n  failed after 2.0 s\n');
  });
});

describe('live progress', () => {
  it('redraws one line, and leaves a tick behind', () => {
    const output = outputOf(true);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('booting the box');
    terminal.detail('PrivVM is up');
    vi.advanceTimersByTime(1000);
    expect(output.text).not.toContain('\n');
    expect(output.text.split('\r\x1b[2K').at(-1)).toMatch(/^\S booting the box +1 s {2}PrivVM is up$/);
    terminal.done();
    expect(output.text.split('\r\x1b[2K').at(-1)).toMatch(/^✓ booting the box +1\.0 s\n$/);
  });

  it('never draws wider than the terminal', () => {
    const output = outputOf(true, 30);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('a step whose label is long enough to be cut');
    terminal.detail('and a detail');
    vi.advanceTimersByTime(1000);
    for (const drawn of output.text.split('\r\x1b[2K')) expect([...drawn].length).toBeLessThan(30);
    terminal.done();
  });

  it('prints lines above itself', () => {
    const output = outputOf(true);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('guarding');
    terminal.line('a failure was recovered');
    expect(output.text).toContain('\r\x1b[2Ka failure was recovered\n');
    expect(output.text.split('\n').at(-1)).toContain('guarding');
    terminal.done();
  });

  it('stops drawing when it is done', () => {
    const output = outputOf(true);
    const terminal = openTerminal(output, { colors: 'plain' });
    terminal.step('one');
    terminal.done();
    const before = output.text;
    vi.advanceTimersByTime(5000);
    terminal.done();
    expect(output.text).toBe(before);
  });
});

describe('colours', () => {
  it('are for terminals, unless somebody says otherwise', () => {
    const tty = outputOf(true);
    const pipe = outputOf(false);
    expect(colorMode(tty, {})).toBe('color');
    expect(colorMode(pipe, {})).toBe('plain');
    expect(colorMode(tty, { NO_COLOR: '1' })).toBe('plain');
    expect(colorMode(tty, { NO_COLOR: '' })).toBe('color');
    expect(colorMode(tty, { TERM: 'dumb' })).toBe('plain');
    expect(colorMode(pipe, { FORCE_COLOR: '1' })).toBe('color');
    expect(colorMode(pipe, { FORCE_COLOR: '1', NO_COLOR: '1' })).toBe('plain');
  });
});

describe('a block of lines', () => {
  it('is redrawn in its place, below every line that is printed', () => {
    const output = outputOf(true);
    using terminal = openTerminal(output, { colors: 'plain' });
    terminal.block(['one', 'two']);
    expect(output.text).toBe('one\ntwo\n');
    output.text = '';
    terminal.block(['three']);
    expect(output.text).toBe('\r\x1b[2A\x1b[0Jthree\n');
    output.text = '';
    terminal.line('a line');
    expect(output.text).toBe('\r\x1b[1A\x1b[0Ja line\nthree\n');
    output.text = '';
    terminal.block([]);
    expect(output.text).toBe('\r\x1b[1A\x1b[0J');
  });

  it('is cut where the terminal would break it', () => {
    const output = outputOf(true, 10);
    openTerminal(output, { colors: 'plain' }).block(['123456789012']);
    expect(output.text).toBe('12345678…\n');
  });

  it('is nothing elsewhere', () => {
    const output = outputOf(false);
    openTerminal(output, { colors: 'plain' }).block(['one']);
    expect(output.text).toBe('');
  });
});
