package egress

import "strings"

// Classes of names.
const (
	Telemetry   = "telemetry"          // usage statistics and crash reports
	Time        = "time"               // NTP servers
	Certificate = "certificate status" // OCSP and CRLs
	Update      = "update check"       // whether a newer version exists
	Probe       = "connectivity check" // whether the Internet can be reached
	Resolver    = "resolver"           // DNS over HTTPS
)

// classes are well-known names; a name is in the class of the longest suffix of whole labels.
var classes = map[string]string{
	"stats.grafana.org":            Telemetry,
	"telemetry.traefik.io":         Telemetry,
	"collect.traefik.io":           Telemetry,
	"checkpoint-api.hashicorp.com": Update,
	"sentry.io":                    Telemetry,
	"telemetry.elastic.co":         Telemetry,
	"api.segment.io":               Telemetry,
	"api.mixpanel.com":             Telemetry,
	"google-analytics.com":         Telemetry,
	"popcon.debian.org":            Telemetry,
	"metrics.ubuntu.com":           Telemetry,
	"daisy.ubuntu.com":             Telemetry,
	"events.data.microsoft.com":    Telemetry,
	"vortex.data.microsoft.com":    Telemetry,
	"dc.services.visualstudio.com": Telemetry,
	"telemetry.nextjs.org":         Telemetry,

	"pool.ntp.org":        Time,
	"ntp.ubuntu.com":      Time,
	"time.google.com":     Time,
	"time.cloudflare.com": Time,
	"time.windows.com":    Time,
	"time.apple.com":      Time,
	"time.nist.gov":       Time,

	"o.lencr.org":         Certificate,
	"c.lencr.org":         Certificate,
	"i.lencr.org":         Certificate,
	"ocsp.digicert.com":   Certificate,
	"crl3.digicert.com":   Certificate,
	"crl4.digicert.com":   Certificate,
	"ocsp.sectigo.com":    Certificate,
	"crl.sectigo.com":     Certificate,
	"ocsp.usertrust.com":  Certificate,
	"ocsp.globalsign.com": Certificate,
	"crl.globalsign.com":  Certificate,
	"ocsp.pki.goog":       Certificate,
	"o.pki.goog":          Certificate,
	"c.pki.goog":          Certificate,
	"ocsp.entrust.net":    Certificate,
	"crl.microsoft.com":   Certificate,

	"update.k3s.io":           Update,
	"update.containo.us":      Update,
	"changelogs.ubuntu.com":   Update,
	"motd.ubuntu.com":         Update,
	"esm.ubuntu.com":          Update,
	"contracts.canonical.com": Update,
	"api.snapcraft.io":        Update,
	"fwupd.org":               Update,
	"update.googleapis.com":   Update,
	"windowsupdate.com":       Update,
	"update.microsoft.com":    Update,

	"connectivity-check.ubuntu.com": Probe,
	"network-test.debian.org":       Probe,
	"detectportal.firefox.com":      Probe,
	"connectivitycheck.gstatic.com": Probe,
	"msftconnecttest.com":           Probe,
	"captive.apple.com":             Probe,

	"dns.google":              Resolver,
	"cloudflare-dns.com":      Resolver,
	"one.one.one.one":         Resolver,
	"dns.quad9.net":           Resolver,
	"doh.opendns.com":         Resolver,
	"use-application-dns.net": Resolver,
}

// classOf returns the class of a name, "" if none is known. Names whose labels say it are in a class, too: ocsp.HOST.
func classOf(name string) string {
	for rest := name; rest != ""; {
		if class, ok := classes[rest]; ok {
			return class
		}
		_, rest, _ = strings.Cut(rest, ".")
	}
	label, _, _ := strings.Cut(name, ".")
	switch strings.TrimRight(label, "0123456789") {
	case "ocsp", "crl":
		return Certificate
	case "ntp", "time":
		return Time
	case "telemetry":
		return Telemetry
	}
	return ""
}
