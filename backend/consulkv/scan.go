package consulkv

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// pair is one entry of a list as the scanner shows it. Its slices are valid
// until the next one is read.
type pair struct {
	name                  []byte
	session               []byte
	base64                []byte // the value as it stands in the JSON
	flags, create, modify uint64
}

// value decodes the value into memory of its own.
func (p *pair) value() ([]byte, error) {
	if len(p.base64) == 0 {
		return nil, nil
	}
	dst := make([]byte, base64.StdEncoding.DecodedLen(len(p.base64)))
	n, err := base64.StdEncoding.Decode(dst, p.base64)
	return dst[:n], err
}

// scanner reads the JSON of a list of pairs from the connection, pair by pair:
// neither the list nor a value that nobody asks for is ever held as a whole.
// encoding/json would hold the list, and decode every value of every list that
// a watch compares with what it knows.
type scanner struct {
	r     *bufio.Reader
	first bool // no element of the array was read yet
	field []byte
	pair  pair
}

var errSyntax = errors.New("malformed list")

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}

// newScanner reads from r. The caller calls free in the end.
func newScanner(r io.Reader) *scanner {
	b := readers.Get().(*bufio.Reader)
	b.Reset(r)
	return &scanner{r: b}
}

func (d *scanner) free() {
	d.r.Reset(nil)
	readers.Put(d.r)
	d.r = nil
}

// list enters an array of pairs.
func (d *scanner) list() error {
	d.first = true
	return d.expect('[')
}

// next reads one pair of the array, or returns io.EOF at its end.
func (d *scanner) next() (*pair, error) {
	if more, err := d.element(); err != nil || !more {
		return nil, d.end(err)
	}
	return &d.pair, d.object()
}

// nextName reads one string of an array of names, or returns io.EOF at its end.
// The string is valid until the next call.
func (d *scanner) nextName() ([]byte, error) {
	if more, err := d.element(); err != nil || !more {
		return nil, d.end(err)
	}
	var err error
	d.pair.name, err = d.text(d.pair.name[:0])
	return d.pair.name, err
}

// txn enters the results of a transaction's answer.
func (d *scanner) txn() error {
	if err := d.expect('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, err := d.name(first)
		if err != nil {
			return err
		}
		if name == nil {
			return io.ErrUnexpectedEOF
		}
		if string(name) == "Results" {
			return d.list()
		}
		if err := d.skip(); err != nil {
			return err
		}
	}
}

// result reads one {"KV":pair} of a transaction's results, or returns io.EOF.
func (d *scanner) result() (*pair, error) {
	if more, err := d.element(); err != nil || !more {
		return nil, d.end(err)
	}
	if err := d.expect('{'); err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		name, err := d.name(first)
		if err != nil {
			return nil, err
		}
		if name == nil {
			return &d.pair, nil
		}
		if string(name) == "KV" {
			err = d.object()
		} else {
			err = d.skip()
		}
		if err != nil {
			return nil, err
		}
	}
}

// end is the error after an array's last element, which was read if err is nil.
func (d *scanner) end(err error) error {
	if err == nil {
		// The connection is used again only if the body was read to its end.
		_, err = io.Copy(io.Discard, d.r)
	}
	if err == nil {
		return io.EOF
	}
	return err
}

// element moves to the next element of an array, and reports false at its end.
func (d *scanner) element() (bool, error) {
	c, err := d.token()
	switch {
	case err != nil:
		return false, err
	case c == ']':
		return false, nil
	case d.first:
		d.first = false
		return true, d.r.UnreadByte()
	case c == ',':
		return true, nil
	}
	return false, errSyntax
}

// object reads a pair.
func (d *scanner) object() error {
	p := &d.pair
	*p = pair{name: p.name[:0], session: p.session[:0], base64: p.base64[:0]}
	if err := d.expect('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, err := d.name(first)
		if err != nil {
			return err
		}
		if name == nil {
			return nil
		}
		switch string(name) {
		case "Key":
			p.name, err = d.text(p.name)
		case "Value":
			p.base64, err = d.text(p.base64)
		case "Session":
			p.session, err = d.text(p.session)
		case "Flags":
			p.flags, err = d.number()
		case "CreateIndex":
			p.create, err = d.number()
		case "ModifyIndex":
			p.modify, err = d.number()
		default:
			err = d.skip()
		}
		if err != nil {
			return err
		}
	}
}

// name reads the name of an object's next member and the colon, or returns nil
// at the object's end.
func (d *scanner) name(first bool) ([]byte, error) {
	c, err := d.token()
	if err != nil {
		return nil, err
	}
	if c == '}' {
		return nil, nil
	}
	if !first {
		if c != ',' {
			return nil, errSyntax
		}
		if c, err = d.token(); err != nil {
			return nil, err
		}
	}
	if c != '"' {
		return nil, errSyntax
	}
	if d.field, err = d.quoted(d.field[:0]); err != nil {
		return nil, err
	}
	return d.field, d.expect(':')
}

// text appends a string, or nothing for null, to dst.
func (d *scanner) text(dst []byte) ([]byte, error) {
	c, err := d.token()
	switch {
	case err != nil:
		return dst, err
	case c == '"':
		return d.quoted(dst)
	}
	return dst, errors.Join(d.r.UnreadByte(), d.skip())
}

// quoted appends the rest of a string, whose opening quote was read, to dst,
// which is empty.
func (d *scanner) quoted(dst []byte) ([]byte, error) {
	for {
		chunk, err := d.r.ReadSlice('"')
		dst = append(dst, chunk...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return dst, truncated(err)
		}
		body := dst[:len(dst)-1]
		backslashes := len(body) - len(bytes.TrimRight(body, `\`))
		if backslashes%2 == 1 {
			continue // the quote is escaped
		}
		if bytes.IndexByte(body, '\\') < 0 {
			return body, nil
		}
		if lossy(body) {
			return append(dst[:0], 0xFF), nil // not UTF-8 either
		}
		var s string
		if err := json.Unmarshal(append([]byte{'"'}, dst...), &s); err != nil {
			return dst, fmt.Errorf("%w: %w", errSyntax, err)
		}
		return append(dst[:0], s...), nil
	}
}

// lossy reports whether a string had bytes that are not UTF-8: Go's encoder, and
// so Consul, writes each of them as the escape \ufffd, and a U+FFFD that was
// one as itself.
func lossy(body []byte) bool {
	for i := 0; i+1 < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		if bytes.HasPrefix(body[i+1:], []byte("ufffd")) {
			return true
		}
		i++
	}
	return false
}

func (d *scanner) number() (uint64, error) {
	c, err := d.token()
	var digits [20]byte
	n := 0
	for ; err == nil && '0' <= c && c <= '9'; c, err = d.r.ReadByte() {
		if n == len(digits) {
			return 0, errSyntax
		}
		digits[n] = c
		n++
	}
	if err != nil {
		return 0, truncated(err)
	}
	v, err := strconv.ParseUint(string(digits[:n]), 10, 64)
	if err != nil {
		return 0, errSyntax
	}
	return v, d.r.UnreadByte()
}

// skip passes over a value of any kind.
func (d *scanner) skip() error {
	depth := 0
	for {
		c, err := d.token()
		if err != nil {
			return err
		}
		switch c {
		case '"':
			if d.field, err = d.quoted(d.field[:0]); err != nil {
				return err
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ':':
			if depth == 0 {
				return errSyntax
			}
			continue
		default: // a number, true, false or null
			for err == nil && c != ',' && c != '}' && c != ']' && c > ' ' {
				c, err = d.r.ReadByte()
			}
			if err != nil {
				return truncated(err)
			}
			if err := d.r.UnreadByte(); err != nil {
				return err
			}
		}
		switch {
		case depth == 0:
			return nil
		case depth < 0:
			return errSyntax
		}
	}
}

func (d *scanner) expect(want byte) error {
	c, err := d.token()
	if err == nil && c != want {
		err = errSyntax
	}
	return err
}

// token returns the next byte that is no white space.
func (d *scanner) token() (byte, error) {
	for {
		c, err := d.r.ReadByte()
		if err != nil {
			return 0, truncated(err)
		}
		if c > ' ' {
			return c, nil
		}
	}
}

func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
