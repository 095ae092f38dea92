package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// maxLine bounds a line of input, and with it a value that is typed in.
const maxLine = 1 << 20

// lineFeed hands out lines to a reader that must not block past the end of its
// context.
type lineFeed struct {
	lines chan string
	err   error // io.EOF or why reading ended; set before lines is closed
}

// feedLines reads from in until it ends. A read that blocks outlives ctx, for
// nothing but the end of the program can interrupt it.
func feedLines(ctx context.Context, in io.Reader) *lineFeed {
	f := &lineFeed{lines: make(chan string)}
	go func() {
		defer close(f.lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			select {
			case f.lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
		f.err = cmp.Or(scanner.Err(), io.EOF)
	}()
	return f
}

// next returns a line, or io.EOF when the input has ended, or why ctx has.
func (f *lineFeed) next(ctx context.Context) (string, error) {
	select {
	case line, ok := <-f.lines:
		if !ok {
			return "", cmp.Or(f.err, ctx.Err())
		}
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// splitWords splits a line at blanks. A word in double quotes is written like
// a Go string and may hold blanks and escapes.
func splitWords(line string) ([]string, error) {
	var words []string
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		var word string
		var err error
		if word, rest, err = cutWord(rest); err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

func cutWord(s string) (word, rest string, err error) {
	if s[0] == '"' {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", errors.New("a quoted word does not end, or holds a bad escape sequence")
		}
		word, err = strconv.Unquote(quoted)
		return word, s[len(quoted):], err
	}
	end := strings.IndexFunc(s, unicode.IsSpace)
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:], nil
}
