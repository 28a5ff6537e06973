package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "busel"

// A layer is a package and all that it may import of ours, test files apart.
// "x/..." is x and everything below it.
type layer struct {
	pkg string
	may []string
	why string
}

var layers = []layer{
	{"internal/flow", nil, "front, session and exit meet here: it depends on none of them"},
	{"internal/wire", []string{"internal/flow"}, "a codec is pure; an address is all it needs from outside"},
	{"transport", []string{"internal/fault", "internal/flow", "internal/wire"}, "a contract: hello and accept travel inside a transport's handshake, the rest is opaque"},
	{"transport/transporttest", []string{"internal/flow", "internal/wire", "transport"}, "the suite knows what the contract says and nothing of one transport"},
	{"internal/certs", nil, "judges a cover's certificate; asks neither the system nor the clock"},
	{"transport/mirror", []string{"internal/certs", "internal/fault", "internal/flow", "internal/wire", "transport", "obfs/..."}, "a transport knows nothing of streams and of other transports"},
	{"transport/quic", []string{"internal/certs", "internal/wire", "transport", "obfs/..."}, "a transport knows nothing of streams and of other transports"},
	{"obfs/...", []string{"obfs/records", "obfs/vectors"}, "how bytes look: pure data and pure functions; a look says how its browser cuts records"},
	{"internal/session", []string{"internal/flow", "internal/wire", "transport"}, "knows carriers as an interface only, so that any may die"},
	{"internal/rotate", []string{"internal/flow", "internal/wire", "transport"}, "chooses among carriers; knows neither frames nor TLS"},
	{"internal/bridge", []string{"internal/rotate", "internal/session", "internal/wire"}, "shows a session to rotation, which do not know each other"},
	{"internal/tunnel", []string{"config", "internal/bridge", "internal/detour", "internal/flow", "internal/rotate", "internal/session", "internal/state", "internal/wire", "obfs/look", "transport/..."}, "the client's end of its relays, for the client and for a relay that leaves by another"},
	{"internal/detour", []string{"internal/flow", "transport"}, "streams of any opener as a network for any transport"},
	{"internal/network", nil, "what the system says of its network; knows nothing of what it is for"},
	{"internal/memory", []string{"internal/network"}, "what is known of routes, by names that it does not know the meaning of"},
	{"internal/capture", []string{"obfs/look"}, "shows a browser a site and writes down what it says; knows nothing of the tunnel"},
	{"internal/looks", []string{"obfs/look"}, "says which look is worn; whether it can be worn, others try"},
	{"internal/cover", nil, "the built-in site is a web server that knows nothing of the tunnel"},
	{"internal/acme", nil, "keeps a site's certificate fresh; knows nothing of the relay"},
	{"internal/checkup", []string{"transport", "transport/mirror"}, "judges facts; visits covers as any visitor does"},
	{"internal/exit", []string{"internal/flow", "transport"}, "implements flow.Opener; works without any tunnel"},
	{"internal/front", []string{"internal/flow", "internal/words"}, "uses flow.Opener; works without any tunnel"},
	{"internal/peer", nil, "what the system says of a socket's other end; knows nothing of what it is for"},
	{"internal/relay", []string{"internal/flow", "internal/quota", "internal/wire", "internal/session", "transport"}, "joins any listener to any opener, the exit among them"},
	{"internal/handover", []string{"internal/wire", "transport"}, "passes sockets and carriers to another process; knows nothing of sessions"},
	{"internal/systemd", nil, "what the service manager is told; knows nothing of what the program does"},
	{"internal/metrics", nil, "how counts are shown; which ones is cmd's"},
	{"internal/cli", []string{"config"}, "the frame of a command: flags, help, exit statuses"},
	{"internal/seal", nil, "bytes in, bytes out: what is sealed and where it is kept, state knows"},
	{"internal/state", []string{"config", "internal/seal", "internal/wire"}, "the directory of a program: the files that config describes"},
	{"internal/quota", []string{"config", "internal/state"}, "counts bytes; knows neither streams nor tokens"},
	{"internal/control", nil, "how the commands of one directory talk; carries JSON that it does not know"},
	{"internal/picture", []string{"config"}, "finds codes in pictures; config says whether they are an invite"},
	{"internal/words", nil, "texts and nothing else; what they are put on is others' business"},
	{"internal/page", []string{"config", "internal/front", "internal/picture", "internal/words"}, "what a resident sees; what it shows and does is a client behind an interface"},
	{"internal/nearby", []string{"config", "internal/words"}, "a small web server for the local network; its listeners are the caller's"},
	{"internal/arch", nil, "reads source files"},
	{"internal/e2e", nil, "tests the programs from outside, as users and censors meet them"},
	{"internal/nginxtest", nil, "runs a program; belongs to tests"},
	{"internal/fault", nil, "constants that are false but in a test build of the relay"},
	{"internal/prober", nil, "looks at servers as a stranger does, who knows nothing of Busel; belongs to tests and the lab"},
	{"config", []string{"internal/flow", "internal/wire"}, "parses bytes, and opens nothing"},
	{"cmd/...", []string{"config", "internal/...", "obfs/...", "transport/..."}, "a command wires everything; nothing is below it but all"},
	{"docs/vectors", nil, "test vectors and what checks them"},
	{"scripts/origin", nil, "a site to fetch from; knows nothing of Busel"},
	{"scripts/lab/prober", []string{"internal/prober"}, "a command for the prober, which knows nothing of Busel"},
	{"scripts/bench", []string{"internal/nginxtest"}, "measures the programs from outside"},
	{"scripts/lab/netns", nil, "networks and programs inside them; knows nothing of what they are for"},
	{"scripts/lab/world", []string{"scripts/lab/censor", "scripts/lab/netns", "scripts/lab/scratch"}, "joins networks and a censor; knows nothing of Busel"},
	{"scripts/lab/sample", nil, "statistics; knows nothing of what its numbers are"},
	{"scripts/lab/scratch", nil, "folders that do not pile up"},
	{"scripts/lab/censor", []string{"internal/control", "scripts/lab/censor/rule"}, "moves packets; rules decide about them"},
	{"scripts/lab/censor/packet", nil, "a censor's parsers are pure and share nothing with what they look for"},
	{"scripts/lab/censor/rule", []string{"scripts/lab/censor/packet"}, "packets and the time in, verdicts out"},
	{"scripts/lab/rules", []string{"scripts/lab/censor/..."}, "rule files and what checks them"},
	{"scripts/lab/tunnel", []string{"internal/flow"}, "a plain tunnel between two openers"},
	{"scripts/lab/scenario", []string{"internal/exit", "internal/flow", "internal/front", "scripts/lab/netns", "scripts/lab/tunnel", "scripts/lab/world", "transport"}, "experiments with Busel from outside, and with plain tunnels between its own proxy and exit"},
	{"scripts/lab", []string{"internal/control", "internal/nginxtest", "scripts/lab/..."}, "builds the world of an experiment, and runs it"},
}

// A module is code of others and the packages that may import it, their test
// files included.
type dependency struct {
	path string
	in   []string
	why  string
}

var dependencies = []dependency{
	{"github.com/refraction-networking/utls", []string{"transport/mirror", "scripts/lab/tunnel"}, "one place speaks TLS as a browser does, and the lab plays another tool that does"},
	{"github.com/andybalholm/brotli", []string{"transport/mirror"}, "a visit reads the cover's pages; utls has it anyway"},
	{"github.com/klauspost/compress", []string{"transport/mirror"}, "a visit reads pages that are packed with zstd; utls has it anyway"},
	{"github.com/flynn/noise", []string{"transport/mirror", "transport/quic"}, "the hello of a carrier"},
	{"github.com/quic-go/quic-go", []string{"transport/quic", "internal/e2e"}, "one place speaks QUIC, and the tests visit its site as strangers"},
	{"github.com/armon/go-socks5", []string{"internal/front"}, "it parses requests and authentication, no more"},
	{"github.com/BurntSushi/toml", []string{"config", "scripts/lab/censor/rule"}, "one place reads TOML, strictly; the lab's rules are no configuration of the programs"},
	{"filippo.io/age", []string{"internal/seal"}, "files under a passphrase, in a format that other programs read"},
	{"golang.org/x/term", []string{"internal/cli"}, "a passphrase is typed unseen"},
	{"rsc.io/qr", []string{"config", "cmd/..."}, "invites as pictures"},
	{"github.com/makiuchi-d/gozxing", []string{"internal/picture", "config"}, "one place reads pictures, with bounds; the tests of config read what it draws"},
	{"github.com/rogpeppe/go-internal", []string{"cmd/..."}, "scripts that test the commands"},
	{"golang.org/x/crypto", []string{"..."}, "the only cryptography beside the standard library's and Noise"},
	{"golang.org/x/sys", []string{"..."}, "what one operating system alone offers"},
	{"golang.org/x/net", []string{"transport/...", "internal/acme", "internal/capture", "internal/checkup", "internal/cover", "internal/e2e", "internal/exit", "internal/front", "internal/network", "internal/prober", "cmd/...", "scripts/lab/..."}, "HTTP/2 frames, DNS messages, routing tables, QUIC of the lab, packet filters and names of the net"},
}

// A ban is an import that some packages must not have, or a name of an import
// that they must not use: "net.Dial".
type ban struct {
	in     string
	except []string
	of     []string
	tests  bool // holds in test files, too
	why    string
}

var bans = []ban{
	{"...", nil, []string{module + "/cmd/..."}, true, "a command is the end of the arrows"},
	{"...", nil, []string{"math/rand"}, true, "v1 has a global state that can be seeded; use math/rand/v2, or crypto/rand for what must not be guessed"},
	{"...", []string{"internal/cli"}, loggers, false, "everything logs by log/slog to the logger that it was given"},
	{"...", nil, []string{"C", "plugin", "io/ioutil"}, true, "everything cross-compiles without cgo"},
	{"...", []string{"internal/nginxtest", "internal/e2e", "transport/transporttest", "scripts/bench", "scripts/lab/..."}, []string{module + "/internal/nginxtest", module + "/transport/transporttest", "testing", "testing/..."}, false, "test code is not shipped"},
	{"config", nil, []string{"os", "os/...", "net/http", "net/http/...", "syscall", "crypto/tls", "golang.org/x/sys/...", "golang.org/x/net/...", "github.com/makiuchi-d/gozxing/..."}, false, "config takes bytes and gives structs: who opens files is cmd"},
	{"...", []string{"transport", "internal/capture", "internal/exit", "internal/front", "internal/control", "internal/handover", "internal/network", "internal/nginxtest", "internal/peer", "internal/prober", "internal/systemd", "cmd/...", "scripts/..."}, sockets, false, "sockets come from transport.Network or the caller, so that tests can hand out others"},
	{"...", []string{"internal/exit", "cmd/..."}, lookups, false, "only the relay's exit looks up names: a lookup elsewhere is a leak"},
	{"internal/wire", nil, []string{"os", "os/...", "net", "net/http", "syscall", "sync", "sync/...", "context", "crypto", "crypto/..."}, false, "a codec has no socket, no lock, no key"},
	{"internal/flow", nil, []string{"os", "os/...", "net/http", "syscall", "crypto/...", "golang.org/x/..."}, false, "flow opens nothing"},
	{"obfs/...", nil, []string{"os", "os/...", "net/http", "github.com/...", "golang.org/x/sys/...", "golang.org/x/net/..."}, false, "how bytes look is data, tested without a socket"},
	{"internal/session", nil, []string{"crypto/tls", "net/http", "os/exec", "golang.org/x/net/...", "golang.org/x/sys/..."}, false, "a session knows carriers as an interface"},
	{"internal/rotate", nil, []string{"crypto/...", "net/http", "os/exec", "syscall"}, false, "rotation decides on outcomes, not on bytes"},
	{"scripts/lab/censor/packet", nil, []string{"os", "os/...", "net", "net/http", "syscall", "sync", "sync/...", "context"}, false, "bytes in, values out: tested without a socket"},
	{"scripts/lab/censor/rule", nil, []string{"os", "os/...", "net", "net/http", "syscall", "context", "time.Now"}, false, "the clock and the packets are the caller's"},
	{"internal/exit", nil, []string{"crypto/tls", "net/http"}, false, "an exit moves bytes, and never looks into them"},
}

var (
	loggers = []string{
		"log.Print...", "log.Fatal...", "log.Panic...", "log.Set...", "log.Default", "log/slog.Default", "log/slog.SetDefault",
		"log/slog.Debug...", "log/slog.Info...", "log/slog.Warn...", "log/slog.Error...",
	}
	sockets = []string{
		"net.Dial", "net.DialTimeout", "net.DialTCP", "net.DialUDP", "net.DialIP", "net.DialUnix", "net.Dialer",
		"net.Listen", "net.ListenConfig", "net.ListenPacket", "net.ListenTCP", "net.ListenUDP", "net.ListenIP",
		"net.ListenUnix", "net.ListenUnixgram", "net.ListenMulticastUDP", "net.FileConn", "net.FileListener", "net.FilePacketConn",
	}
	lookups = []string{
		"net.LookupHost", "net.LookupIP", "net.LookupAddr", "net.LookupCNAME", "net.LookupMX", "net.LookupNS", "net.LookupSRV",
		"net.LookupTXT", "net.ResolveTCPAddr", "net.ResolveUDPAddr", "net.ResolveIPAddr", "net.Resolver", "net.DefaultResolver",
	}
)

// source is what the rules judge of one Go file.
type source struct {
	file    string // for messages
	pkg     string // folder below the module's root: "internal/wire"
	test    bool
	imports []string
	uses    []string // exported names of imports: "net.Dial"
	inits   bool     // declares func init()
	assigns []string // package-level variables that its functions assign to
}

// violations applies the tables to the files of a tree.
func violations(files []source) []string {
	var all []string
	for _, f := range files {
		report := func(format string, args ...any) {
			all = append(all, f.file+": "+fmt.Sprintf(format, args...))
		}
		row := slices.IndexFunc(layers, func(l layer) bool { return match(l.pkg, f.pkg) })
		if row < 0 {
			report("package %s has no layer: add it to the table with what it may import and why", f.pkg)
			continue
		}
		for _, imported := range f.imports {
			own, isOwn := strings.CutPrefix(imported, module+"/")
			switch {
			case isOwn:
				if !f.test && !anyMatch(layers[row].may, own) {
					report("%s imports %s: %s", f.pkg, own, layers[row].why)
				}
			case isStd(imported):
			default:
				i := slices.IndexFunc(dependencies, func(d dependency) bool { return match(d.path+"/...", imported) })
				if i < 0 {
					report("%s is of an unknown module: add it to the table with who may import it and why", imported)
				} else if !anyMatch(dependencies[i].in, f.pkg) {
					report("%s imports %s: %s", f.pkg, imported, dependencies[i].why)
				}
			}
		}
		for _, b := range bans {
			if !match(b.in, f.pkg) || anyMatch(b.except, f.pkg) || f.test && !b.tests {
				continue
			}
			for _, name := range slices.Concat(f.imports, f.uses) {
				if anyMatch(b.of, name) {
					report("%s imports or uses %s: %s", f.pkg, name, b.why)
				}
			}
		}
		if f.inits {
			report("func init(): nothing happens because a package was imported")
		}
		for _, name := range f.assigns {
			report("assigns to %s: no global state, so that everything can be made twice and tested alone", name)
		}
	}
	return all
}

// match reports whether name is the pattern, or below it if it ends in "...".
func match(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return prefix == "" || strings.HasPrefix(name+"/", prefix)
	}
	return pattern == name
}

func anyMatch(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

func isStd(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// readTree reads every Go file below root, test data and nested modules apart.
func readTree(root string) ([]source, error) {
	var all []source
	parsed := map[string][]*ast.File{} // shipped files of each folder
	index := map[*ast.File]int{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name == root {
				return nil
			}
			_, nested := os.Stat(filepath.Join(name, "go.mod"))
			if base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_' || nested == nil {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s := source{file: rel, pkg: path.Dir(rel), test: strings.HasSuffix(base, "_test.go")}
		names := map[string]string{} // of the imports in this file
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, imported)
			if spec.Name != nil {
				names[spec.Name.Name] = imported
			} else {
				names[path.Base(imported)] = imported
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if x, ok := n.(*ast.SelectorExpr); ok {
				if id, ok := x.X.(*ast.Ident); ok && names[id.Name] != "" {
					s.uses = append(s.uses, names[id.Name]+"."+x.Sel.Name)
				}
			}
			return true
		})
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				s.inits = true
			}
		}
		if !s.test {
			parsed[s.pkg] = append(parsed[s.pkg], f)
			index[f] = len(all)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, files := range parsed {
		globals := map[string]bool{}
		for _, f := range files {
			for _, decl := range f.Decls {
				if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.VAR {
					declare(globals, gen)
				}
			}
		}
		for _, f := range files {
			all[index[f]].assigns = assigned(f, globals)
		}
	}
	return all, nil
}

// declare adds the names of a var declaration.
func declare(names map[string]bool, gen *ast.GenDecl) {
	for _, spec := range gen.Specs {
		if spec, ok := spec.(*ast.ValueSpec); ok {
			for _, name := range spec.Names {
				names[name.Name] = true
			}
		}
	}
}

// assigned lists the globals that functions of f assign to, or to a part of.
// A name that a function also declares is taken for the function's own.
func assigned(f *ast.File, globals map[string]bool) []string {
	var all []string
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		local := map[string]bool{}
		var targets []ast.Expr
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				for _, name := range n.Names {
					local[name.Name] = true
				}
			case *ast.GenDecl:
				if n.Tok == token.VAR {
					declare(local, n)
				}
			case *ast.IncDecStmt:
				targets = append(targets, n.X)
			case *ast.RangeStmt:
				for _, x := range []ast.Expr{n.Key, n.Value} {
					if id, ok := x.(*ast.Ident); ok && n.Tok == token.DEFINE {
						local[id.Name] = true
					} else if x != nil {
						targets = append(targets, x)
					}
				}
			case *ast.AssignStmt:
				for _, x := range n.Lhs {
					if id, ok := x.(*ast.Ident); ok && n.Tok == token.DEFINE {
						local[id.Name] = true
					} else {
						targets = append(targets, x)
					}
				}
			}
			return true
		})
		for _, x := range targets {
			if name := root(x); name != "_" && globals[name] && !local[name] {
				all = append(all, name)
			}
		}
	}
	return all
}

// root is the variable that an assignment to x changes.
func root(x ast.Expr) string {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e.Name
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return ""
		}
	}
}

func TestTree(t *testing.T) {
	files, err := readTree("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d files: is this the module's root?", len(files))
	}
	for _, v := range violations(files) {
		t.Error(v)
	}
}

func TestReasons(t *testing.T) {
	check := func(what, why string) {
		if len(why) < 10 {
			t.Errorf("%s has no reason", what)
		}
	}
	for _, l := range layers {
		check(l.pkg, l.why)
	}
	for _, d := range dependencies {
		check(d.path, d.why)
	}
	for _, b := range bans {
		check(b.in+" "+strings.Join(b.of, " "), b.why)
	}
}

// The tables catch what they are there for.
func TestViolations(t *testing.T) {
	for _, tt := range []struct {
		pkg, imported string
		test, ok      bool
	}{
		{"internal/wire", "busel/internal/flow", false, true},
		{"internal/wire", "busel/transport", false, false},
		{"internal/wire", "net", false, false},
		{"internal/wire", "net/netip", false, true},
		{"internal/wire", "os", true, true},
		{"internal/wire", "sync/atomic", false, false},
		{"internal/flow", "busel/internal/wire", false, false},
		{"internal/flow", "net", false, true},
		{"transport", "busel/internal/wire", false, true},
		{"transport", "busel/internal/session", false, false},
		{"transport", "busel/transport/mirror", false, false},
		{"transport/mirror", "busel/obfs/look", false, true},
		{"transport/mirror", "busel/transport/quic", false, false},
		{"transport/mirror", "busel/internal/session", false, false},
		{"transport/mirror", "busel/internal/rotate", false, false},
		{"transport/mirror", "busel/internal/relay", false, false},
		{"transport/mirror", "busel/internal/front", false, false},
		{"transport/mirror", "busel/internal/exit", false, false},
		{"transport/mirror", "github.com/refraction-networking/utls", false, true},
		{"transport/mirror", "github.com/quic-go/quic-go", false, false},
		{"transport/mirror", "busel/internal/nginxtest", true, true},
		{"transport/mirror", "busel/internal/nginxtest", false, false},
		{"internal/session", "busel/transport", false, true},
		{"internal/session", "busel/transport/mirror", false, false},
		{"internal/session", "busel/internal/exit", false, false},
		{"internal/session", "busel/internal/exit", true, true},
		{"internal/session", "github.com/refraction-networking/utls", false, false},
		{"internal/session", "crypto/tls", false, false},
		{"internal/rotate", "busel/internal/session", false, false},
		{"internal/front", "github.com/armon/go-socks5", false, true},
		{"internal/front", "busel/internal/session", false, false},
		{"internal/front", "busel/config", false, false},
		{"internal/exit", "github.com/armon/go-socks5", false, false},
		{"internal/exit", "golang.org/x/crypto/chacha20", false, true},
		{"internal/exit", "busel/internal/session", false, false},
		{"config", "github.com/BurntSushi/toml", false, true},
		{"config", "os", false, false},
		{"config", "os", true, true},
		{"config", "os/user", false, false},
		{"config", "github.com/makiuchi-d/gozxing/qrcode", false, false},
		{"config", "github.com/makiuchi-d/gozxing/qrcode", true, true},
		{"internal/picture", "github.com/makiuchi-d/gozxing/qrcode", false, true},
		{"cmd/client", "github.com/makiuchi-d/gozxing/qrcode", false, false},
		{"config", "net.Dial", false, false},
		{"config", "net.ListenConfig", false, false},
		{"config", "net.SplitHostPort", false, true},
		{"config", "net.LookupHost", false, false},
		{"transport/mirror", "net.Dialer", false, false},
		{"transport/mirror", "net.Dialer", true, true},
		{"transport", "net.Dialer", false, true},
		{"internal/front", "net.LookupIP", false, false},
		{"internal/exit", "net.Resolver", false, true},
		{"config", "net/netip", false, true},
		{"config", "busel/transport/mirror", false, false},
		{"cmd/client", "busel/config", false, true},
		{"cmd/client", "busel/internal/session", false, true},
		{"cmd/client", "busel/transport", false, true},
		{"cmd/client", "busel/cmd/relayd", false, false},
		{"cmd/client", "busel/cmd/relayd", true, false},
		{"cmd/client", "github.com/BurntSushi/toml", false, false},
		{"cmd/client", "github.com/rogpeppe/go-internal/testscript", true, true},
		{"cmd/client", "testing", false, false},
		{"internal/relay", "busel/cmd/client", false, false},
		{"internal/relay", "math/rand", false, false},
		{"internal/relay", "math/rand", true, false},
		{"internal/relay", "math/rand/v2", false, true},
		{"internal/relay", "log.Printf", false, false},
		{"internal/relay", "log/slog.InfoContext", false, false},
		{"internal/relay", "log/slog.Logger", false, true},
		{"internal/relay", "log/slog", false, true},
		{"internal/relay", "github.com/cloudflare/circl/kem", false, false},
		{"internal/relay", "C", false, false},
		{"internal/util", "fmt", false, false},
		{"common", "fmt", true, false},
	} {
		f := source{file: "x.go", pkg: tt.pkg, test: tt.test}
		if strings.Contains(path.Base(tt.imported), ".") {
			f.uses = []string{tt.imported}
		} else {
			f.imports = []string{tt.imported}
		}
		got := violations([]source{f})
		if (len(got) == 0) != tt.ok {
			t.Errorf("%s imports %s (test %v): %q, want ok %v", tt.pkg, tt.imported, tt.test, got, tt.ok)
		}
	}
}

// The reader of files finds imports, init functions and assigned globals, on
// any system, and passes over what is no part of the module.
func TestReadTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"internal/wire/a_windows.go": `package wire
import ("fmt"; r "math/rand")
var Count, other int
var table = map[string]int{}
var fine = []int{1}
var p struct{ x int }
func init() { other = 1 }
func F() { Count++; table["x"] = r.Int(); p.x = 2; fmt.Println(fine) }
func G(table map[string]int) { table["x"] = 1; Count := 1; Count++ }
func H() { for _, other = range fine {} }
type T struct{}
func (T) init() {}
`,
		"internal/wire/b.go":           "package wire\nfunc I() { fine[0] = 1 }\n",
		"internal/wire/b_test.go":      "package wire\nimport \"os\"\nfunc J() { fine[0] = 1; _ = os.Args }\n",
		"internal/wire/testdata/c.go":  "package wire\nimport \"net\"\n",
		"scripts/tools/go.mod":         "module tools\n",
		"scripts/tools/tools.go":       "package tools\nimport \"net\"\n",
		".run/d.go":                    "package d\n",
		"internal/wire/testdata/d.txt": "",
	} {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []source{
		{"internal/wire/a_windows.go", "internal/wire", false, []string{"fmt", "math/rand"}, []string{"math/rand.Int", "fmt.Println"}, true, []string{"other", "Count", "table", "p", "other"}},
		{"internal/wire/b.go", "internal/wire", false, nil, nil, false, []string{"fine"}},
		{"internal/wire/b_test.go", "internal/wire", true, []string{"os"}, []string{"os.Args"}, false, nil},
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if n := len(violations(got)); n != 8 {
		t.Errorf("%d violations, want 8: %q", n, violations(got))
	}
}
