package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	ds "github.com/ipfs/go-datastore"
)

// The exchange format has one pair a line: key, tab, value. Both are escaped
// as in a Go string, except that quotation marks stand for themselves. So any
// bytes survive the round trip, and plain text needs no escaping at all.

// writeTSV writes pairs and returns how many.
func writeTSV(w io.Writer, pairs iter.Seq2[pair, error]) (int, error) {
	out := bufio.NewWriter(w)
	count := 0
	for p, err := range pairs {
		if err != nil {
			return count, err
		}
		if _, err := fmt.Fprintf(out, "%s\t%s\n", escape(p.key), escape(p.value)); err != nil {
			return count, err
		}
		count++
	}
	return count, out.Flush()
}

// readTSV reads pairs up to the first error, which names its line. Blank lines
// are skipped.
func readTSV(r io.Reader) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		in := bufio.NewReader(r)
		for number := 1; ; number++ {
			line, readErr := in.ReadString('\n')
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				p, err := parseTSV(line)
				if err != nil {
					yield(pair{}, fmt.Errorf("line %d: %w", number, err))
					return
				}
				if !yield(p, nil) {
					return
				}
			}
			if readErr == io.EOF {
				return
			}
			if readErr != nil {
				yield(pair{}, readErr)
				return
			}
		}
	}
}

func parseTSV(line string) (pair, error) {
	rawKey, rawValue, found := strings.Cut(line, "\t")
	if !found {
		return pair{}, errors.New("expected a key, a tab and a value")
	}
	name, err := unescape(rawKey)
	if err != nil {
		return pair{}, err
	}
	key, err := parseKey(name)
	if err != nil {
		return pair{}, err
	}
	value, err := unescape(rawValue)
	return pair{key.String(), value}, err
}

// parseKey accepts what the store can hold under: UTF-8 text that leaves a
// name once cleaned. A missing leading slash is added.
func parseKey(name string) (ds.Key, error) {
	key := ds.NewKey(name)
	if key.String() == "/" {
		return key, fmt.Errorf("%q names no key: expected something like /fruit/apple", name)
	}
	if !utf8.ValidString(name) {
		return key, fmt.Errorf("key %q is not UTF-8 text", name)
	}
	return key, nil
}

func escape(s string) string {
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func unescape(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%q is not UTF-8 text: write other bytes as \\xNN", s)
	}
	var out []byte
	for rest := s; rest != ""; {
		char, multibyte, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			return "", fmt.Errorf("bad escape sequence at %q", rest)
		}
		if rest = tail; multibyte {
			out = utf8.AppendRune(out, char)
		} else {
			out = append(out, byte(char))
		}
	}
	return string(out), nil
}
