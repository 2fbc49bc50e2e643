package backend

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Driver opens stores from URLs. It is a value that the user makes, with what
// a URL cannot carry (a TLS configuration, a logger) in its fields; there is
// no registry.
type Driver interface {
	// Schemes are the URL schemes that the driver answers to, in lower case.
	Schemes() []string
	// Open opens the store at u. It fails with ErrInvalid for a URL that it
	// cannot follow to the letter, an unknown parameter included, and
	// otherwise MAY do I/O or leave it to the first call.
	Open(ctx context.Context, u URL) (Store, error)
}

// URL is a store's address, taken apart. Unlike net/url.URL it has a list of
// hosts, and prints without the password.
type URL struct {
	Scheme   string
	User     string
	Password string
	Hosts    []string // "host", "host:port" or "[v6]:port"
	Path     string   // decoded, as it stands after the hosts: "/demo"
	Query    url.Values
}

// escapes is what a malformed URL most often wants.
const escapes = "characters like / ? # in a password are written as %2F %3F %23"

// ParseURL reads scheme://[user[:password]@]host[,host…][/path][?query]. Its
// errors are ErrInvalid and name neither user nor password: the parser of
// net/url prints the whole of what it refuses, so the parts are cut out before
// it is asked, and it would refuse several IPv6 hosts.
func ParseURL(raw string) (URL, error) {
	bad := func(what string) (URL, error) { return URL{}, fmt.Errorf("%w: URL: %s", ErrInvalid, what) }
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || !isScheme(scheme) {
		// What stands there is not shown: it may be a password.
		return bad("want scheme://host/path")
	}
	if strings.ContainsFunc(raw, unicode.IsControl) {
		return bad("a control character")
	}
	u := URL{Scheme: strings.ToLower(scheme)}
	if rest, _, ok = strings.Cut(rest, "#"); ok {
		return bad("a fragment has no meaning here; write # as %23")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		return bad("malformed escape in the path")
	}
	if strings.ContainsRune(u.Path, 0) || !utf8.ValidString(u.Path) {
		return bad("a path that no key could have: NUL, or not UTF-8")
	}
	if u.Query, err = url.ParseQuery(query); err != nil {
		return bad("malformed query")
	}
	for name := range u.Query {
		if strings.Contains(name, "@") { // the end of user:12?password@host; it would be shown as an unknown parameter
			return bad("a parameter with @ in its name; " + escapes)
		}
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, _ := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		if u.User, err = url.PathUnescape(user); err != nil {
			return bad("malformed escape in the user")
		}
		if u.Password, err = url.PathUnescape(password); err != nil {
			return bad("malformed escape in the password")
		}
	}
	if authority == "" {
		return u, nil
	}
	for h := range strings.SplitSeq(authority, ",") {
		p, err := url.Parse("x://" + h)
		if err != nil || p.Host == "" || p.Host != h || strings.Contains(p.Hostname(), ":") && h[0] != '[' {
			// The host is not shown: where a / or ? in a password is not
			// escaped, what stands here is the password's beginning.
			return bad("malformed host; " + escapes + ", an IPv6 address in brackets")
		}
		if port := p.Port(); port != "" {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return bad("a port over 65535")
			}
		}
		u.Hosts = append(u.Hosts, h)
	}
	return u, nil
}

// isScheme reports whether s is a scheme by RFC 3986.
func isScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

// String prints u with the password, if there is one, replaced.
func (u URL) String() string {
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != "" || u.Password != "" {
		b.WriteString(url.PathEscape(u.User))
		if u.Password != "" {
			b.WriteString(":xxxxx")
		}
		b.WriteByte('@')
	}
	b.WriteString(strings.Join(u.Hosts, ","))
	b.WriteString((&url.URL{Path: u.Path}).EscapedPath())
	return b.String() // the query may carry credentials, a Consul token say
}

// Root is the native root that the path names: "/demo" is "demo", and "//demo"
// is "/demo", for trees that were written with a leading slash (R5). Trailing
// slashes go.
func (u URL) Root() string {
	return strings.TrimRight(strings.TrimPrefix(u.Path, "/"), "/")
}

// HostPorts returns the hosts with defaultPort where none is given, and
// defaultHost alone if there is no host.
func (u URL) HostPorts(defaultHost, defaultPort string) []string {
	hosts := slices.Clone(u.Hosts)
	if len(hosts) == 0 {
		hosts = []string{defaultHost}
	}
	for i, h := range hosts {
		switch {
		case strings.HasSuffix(h, ":"):
			hosts[i] = h + defaultPort
		case strings.LastIndexByte(h, ':') <= strings.LastIndexByte(h, ']'):
			hosts[i] = h + ":" + defaultPort
		}
	}
	return hosts
}

// Params reads the query of u parameter by parameter and remembers what was
// read, so that Err can refuse what the driver does not know.
func (u URL) Params() *Params { return &Params{query: u.Query, read: map[string]bool{}} }

// Params is a reader of URL parameters. It is not safe for concurrent use.
type Params struct {
	query url.Values
	read  map[string]bool
	err   error
}

func (p *Params) get(name string) (string, bool) {
	p.read[name] = true
	v, ok := p.query[name]
	if len(v) > 1 && p.err == nil {
		p.err = fmt.Errorf("%w: URL parameter %q stands twice", ErrInvalid, name)
	}
	if !ok || len(v) == 0 {
		return "", false
	}
	return v[0], true
}

func (p *Params) bad(name, want string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: URL parameter %q is not %s", ErrInvalid, name, want)
	}
}

// String returns the parameter called name, or def where there is none.
func (p *Params) String(name, def string) string {
	if v, ok := p.get(name); ok {
		return v
	}
	return def
}

// Bool reads true or false; a name without a value is true.
func (p *Params) Bool(name string, def bool) bool {
	v, ok := p.get(name)
	if !ok {
		return def
	}
	if v == "" {
		return true
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		p.bad(name, "true or false")
	}
	return b
}

// Int reads a decimal number; it must not be negative, as no size and no count
// is.
func (p *Params) Int(name string, def int) int {
	v, ok := p.get(name)
	if !ok {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		p.bad(name, "a whole number from 0 on")
	}
	return n
}

// Duration reads a duration such as 1m30s; it must not be negative.
func (p *Params) Duration(name string, def time.Duration) time.Duration {
	v, ok := p.get(name)
	if !ok {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		p.bad(name, "a duration such as 1m30s")
	}
	return d
}

// Err is the first thing that was wrong, a parameter that nobody read
// included; those that were read are then named as what there is. Values are
// not printed: they may be secrets.
func (p *Params) Err() error {
	if p.err != nil {
		return p.err
	}
	for _, name := range slices.Sorted(maps.Keys(p.query)) {
		if !p.read[name] {
			known := slices.Sorted(maps.Keys(p.read))
			return fmt.Errorf("%w: unknown URL parameter %q; there are: %s", ErrInvalid, name, strings.Join(known, ", "))
		}
	}
	return nil
}
