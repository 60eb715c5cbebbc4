package main

// applianceFences are the import rules of the rooms below appliance that do not follow from their order.
func applianceFences() []fence {
	const a = "casemate/appliance"
	f := []fence{
		{"casemate", []string{a + "/metrics"}, "github.com/prometheus",
			"other rooms count; one room knows how it is shown"},
		{"casemate", []string{a + "/directory"}, "github.com/go-ldap", "one room speaks LDAP"},
		{"casemate", []string{a + "/oidc"}, "github.com/coreos/go-oidc", "one room decides which ID tokens count"},
		{"casemate", []string{a + "/oidc"}, "golang.org/x/oauth2", "one room logs in at an OpenID provider"},
		{"casemate", []string{a + "/config", "casemate/bundle", "casemate/cmd/casemate", a + "/doctor"},
			"go.yaml.in/yaml",
			"the node's config is read in one place"},
		{a + "/edge", nil, "casemate/pki", "the edge routes requests; certificates are chosen before one is read"},
		{a + "/setup", nil, "casemate/fileserver", "init, join and restore prepare a stopped node and serve nobody"},
		{a + "/setup", nil, "casemate/dnssrv", "init, join and restore prepare a stopped node and serve nobody"},
	}
	for _, room := range []string{
		"address", "change", "config", "current", "hostname", "lookup", "names", "nodes", "resolver", "secret",
		"settings", "setup",
		"sockets", "status", "usage",
	} {
		f = append(f, fence{a + "/" + room, nil, "net/http",
			"the edge, the pages, metrics and the admin API speak HTTP"})
	}
	return f
}

// applianceLayers lists every package below appliance, the lowest first: a package imports only packages before it.
// appliance itself, which connects them, is above all and has no line.
func applianceLayers() []layer {
	const a = "casemate/appliance"
	return []layer{
		{a + "/usage", nil, "everybody may say that an operator has made a mistake"},
		{a + "/hostname", nil, "the form of a name depends on nothing"},
		{a + "/address", nil, "the form of an address depends on nothing"},
		{a + "/reply", nil, "an answer's form is the same for every room that speaks HTTP"},
		{a + "/clock", nil, "whether a clock can be right depends on nothing but the machine"},
		{a + "/origin", []string{a + "/hostname"}, "origins are records, independent of the services that use them"},
		{a + "/notebook", nil, "a book is stored and published the same way whatever it records"},
		{a + "/missing", []string{a + "/notebook"}, "the missing book counts misses of any source"},
		{a + "/egress", []string{a + "/notebook"}, "the egress book counts names of any source"},
		{a + "/rehearsal", nil, "questions are recorded whatever answers them"},
		{a + "/replay", nil, "who asks again knows nothing of the daemon that answers"},
		{a + "/repositories", []string{a + "/missing"}, "repositories are found in files, wherever these come from"},
		{a + "/packages", []string{a + "/reply", a + "/usage"},
			"repositories of one's own packages are kept whoever asks for it"},
		{a + "/rotation", nil, "clients that have fetched a new root are counted for any root"},
		{a + "/user", nil, "a password is checked the same for every service"},
		{a + "/access", []string{a + "/usage", a + "/user"}, "who may do what is decided the same for every service"},
		{a + "/directory", nil, "a directory is asked the same for every service"},
		{a + "/oidc", nil, "a provider is asked the same for every service"},
		{a + "/secret", nil, "secrets are stored the same way for any purpose"},
		{a + "/audit/proof", nil, "what is verified outside of the cluster depends on nothing in it"},
		{a + "/audit/syslog", []string{a + "/audit/proof"}, "a receiver gets lines, wherever they come from"},
		{a + "/audit/deeds", nil, "what a change of a name means depends on nothing but the name"},
		{a + "/audit", []string{a + "/audit/proof", a + "/audit/syslog", a + "/secret"},
			"the log is read and kept whoever did what is in it"},
		{a + "/nodes", nil, "a node's record depends on nothing but the tree"},
		{a + "/service", nil, "how systemd runs the daemon depends on addresses, not on a config file"},
		{a + "/nodeconf", nil, "nodes' configuration is a pure function of its arguments"},
		{a + "/handover", nil, "files are handed over whatever they are for"},
		{a + "/parts", nil, "files arrive in parts whatever they are for"},
		{a + "/content", nil, "who changes imports opens neither the admin API nor the config"},
		{a + "/doctor", []string{a + "/nodeconf"}, "it runs on a node and shares only the node's configuration"},
		{a + "/upstream", nil, "what is fetched is kept through interfaces, whoever asks for it"},
		{a + "/clientconn", nil, "connections are limited for every service"},
		{a + "/routing", []string{a + "/origin"}, "a host's meaning depends on origins and nodes only"},
		{a + "/names", []string{a + "/address", a + "/hostname", a + "/origin", a + "/usage"},
			"an operator's DNS records depend on nothing but the tree"},
		{a + "/config", []string{a + "/address", a + "/hostname", a + "/service", a + "/usage"},
			"the node's config is read without the tree and without the cluster's settings"},
		{a + "/settings", []string{a + "/address", a + "/audit/syslog", a + "/content", a + "/hostname", a + "/origin", a + "/usage"},
			"settings are validated text, independent of the rooms that follow them"},
		{a + "/sockets", []string{a + "/config", a + "/service"}, "sockets are bound before anything else is opened"},
		{a + "/setup", []string{a + "/address", a + "/audit/deeds", a + "/clock", a + "/config", a + "/hostname",
			a + "/nodes", a + "/origin", a + "/secret", a + "/service", a + "/settings", a + "/usage"},
			"who changes init or join never opens what serves"},
		{a + "/current", []string{a + "/content", a + "/nodes", a + "/origin", a + "/routing", a + "/settings"},
			"it reads the tree and reports to no room"},
		{a + "/change", []string{a + "/address", a + "/content", a + "/current", a + "/hostname", a + "/origin",
			a + "/settings", a + "/usage"},
			"what changes the cluster does not know who asked for it"},
		{a + "/resolver", []string{a + "/config", a + "/current", a + "/names", a + "/sockets", a + "/usage"},
			"who changes how DNS is fed never opens HTTP"},
		{a + "/lookup", []string{a + "/content", a + "/current", a + "/missing", a + "/origin", a + "/reply",
			a + "/routing"},
			"it asks the services as a client would"},
		{a + "/status", []string{a + "/content", a + "/current", a + "/lookup", a + "/missing", a + "/origin",
			a + "/repositories", a + "/rotation"},
			"status reads and changes nothing"},
		{a + "/metrics", []string{a + "/content", a + "/missing", a + "/reply", a + "/repositories", a + "/upstream"},
			"metrics read counts and change nothing"},
		{a + "/edge", []string{a + "/clientconn", a + "/missing", a + "/origin", a + "/reply", a + "/routing",
			a + "/user"},
			"who changes how requests are routed never opens the admin API, the settings or DNS"},
		{a + "/pages", []string{a + "/doctor", a + "/nodeconf", a + "/reply", a + "/routing"},
			"pages show their arguments"},
		{a + "/admin", []string{a + "/access", a + "/address", a + "/audit", a + "/audit/proof", a + "/change",
			a + "/config", a + "/content", a + "/current", a + "/directory", a + "/egress", a + "/handover",
			a + "/hostname", a + "/lookup", a + "/missing", a + "/names", a + "/nodeconf", a + "/nodes", a + "/oidc",
			a + "/origin",
			a + "/packages", a + "/pages", a + "/parts", a + "/reply",
			a + "/repositories", a + "/rotation", a + "/secret", a + "/settings", a + "/status", a + "/upstream",
			a + "/usage"},
			"the admin API answers requests of operators: it never opens the edge, connections or the DNS process"},
	}
}
