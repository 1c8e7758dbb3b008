"""Texts with and without personal data and secrets, written for this project: what the gates are measured on.

Each is (kind, text): the kind of the one thing that it holds, or "" for a text that only looks like it. Numbers are the
published test numbers of their kinds; key-like strings are put together here, so that no scanner takes them for real.
"""

from __future__ import annotations

EMAIL = (
    "Write to anna.keller@example.com please.", "my mail is j_smith+shop@mail.example.org", "Cc: BOSS@EXAMPLE.NET!",
    "send the receipt to o'neil@example.co.uk", "it bounced from 2fast@sub.domain.example.com twice",
    "contact: <mia@example.de>", "Is kettle-fan_99@example.io still on my account?", "mailto:sales@example.com",
    "ask ünal.kaya@example.com about it", "first.last@example.travel never got the invoice",
)  # fmt: skip
PHONE = (
    "Call me at +1 650-253-0000 tomorrow.", "my number is (650) 253-0000", "ring 020 7946 0018 after six",
    "call me on 00800 7584946", "my number is 7584946", "Please ring us back: 0555 0199 12",
    "Text +44 7400 123456 when it ships", "You can reach me on 650.253.0000", "phone: 6502530000",
    "mobile 07400 123456, evenings only", "WhatsApp +49 30 901820 works too", "fax it to +33 1 42 68 53 00",
    "tel. 650-253-0000 ext. 12", "please dial 0044 20 7946 0018", "Contact Ana: +55 11 96123-4567",
)  # fmt: skip
CARD = (
    "my card 4111 1111 1111 1111 was declined", "charged twice on 5555-5555-5555-4444", "Amex 378282246310005 please",
    "it is 6011111111111117, expires soon", "card number: 3530111333300000", "use 4012888888881881 instead",
    "The Mastercard 5105105105105100 has expired.", "Visa 4222222222222 (an old one)", "Diners 30569309025904",
)  # fmt: skip
IBAN = (
    "refund to DE89 3704 0044 0532 0130 00", "my account is GB82WEST12345698765432",
    "FR14 2004 1010 0505 0001 3M02 606",
    "IBAN: NL91ABNA0417164300", "pay it into ES9121000418450200051332 please", "it's CH93 0076 2011 6238 5295 7 now",
    "de89370400440532013000 is right", "Send it to AT611904300234573201, thanks",
)  # fmt: skip
MACHINE = (
    ("ip_address", "the login came from 203.0.113.42"), ("ip_address", "blocked at 198.51.100.7:8080 again"),
    ("ip_address", "my router says 192.168.1.1"), ("ip_address", "I see 2001:db8::8a2e:370:7334 in the log"),
    ("ip_address", "it pings fe80::1 only"), ("ip_address", "from 2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ("mac_address", "the device 00:1B:44:11:3A:B7 cannot connect"), ("mac_address", "adapter 00-1b-44-11-3a-b7"),
    ("mac_address", "MAC: AC:DE:48:00:11:22"), ("ip_address", "server at 10.0.0.12, port 22"),
)  # fmt: skip
NATIONAL = (
    "my SSN is 536-90-4399", "social security 219-46-3458 on file", "Is 457-55-5462 the right one?",
    "NI number QQ would be wrong, mine is AB 12 34 56 C", "NINO: JG103759A", "NHS number 943 476 5919",
    "my nhs no. is 9434765870", "Steuer-ID 36 574 261 809", "the tax id 36574261809 is mine",
)  # fmt: skip
_A, _H = "abcDEF123ghi456JKL789mno012PQR345stu", "0123456789abcdef0123456789abcdef"
SECRET = (
    "the key is " + "AKIA" + "IOSFODNN7EXAMPLE", "token " + "ghp_" + _A + "A", "use " + "sk-" + "proj-" + _A + _A[:8],
    "Authorization: Bearer " + "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + _A + "-4",
    "slack: " + "xoxb-" + "123456789012-123456789012-" + _A[:24], "stripe " + "sk_" + "live_" + _A[:24],
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA " + "PRIVATE KEY-----", "my password is Tr0ub4dor&3",
    "password: hunter2hunter", 'api_key = "' + _H + '"', "pwd=Winter-2026!", "export API_KEY=" + _A[:20],
    "the access token: " + _H, "secret: s3cr3t-value-9", "postgres://shop:pa55w0rd@db.example.com/orders",
    "glpat-" + _A[:20], "passcode is 4f9K22x", "npm token //registry.example/:_authToken=" + "npm_" + _A,
    "auth_token => " + _A[:30], "OPENAI: " + "sk-" + _A + _A[:12],
)  # fmt: skip

CLEAN = (
    "my order number is 12345678", "call me on 12.05.2024", "they reach 10000000 people",
    "call 3 times in 1500000 hours",
    "where is order 4111 1111 1111 1112?", "order number 2025550143 has not arrived",
    "tracking 1Z999AA10123456784 stuck",
    "invoice 6502530000 is wrong", "I paid $1,299.00 on 2026-11-25 at 14:30:05", "version 1.2.3.4 crashes on start",
    "firmware 10.0.0.12 broke my kettle", "update to v2.4.1.0 please", "the ISBN is 978-3-16-148410-0",
    "it costs 19.99 to 29.99",
    "my flight leaves at 12:30:45", "see section 1.2.3.4.5 of the manual", "article #6502530000 is out of stock",
    "I waited 536 days, 90 hours and 4399 minutes", "ratio of 16:9 or 4:3?", "meet me @home",
    "follow @kettle_fan on there",
    "price@checkout differs from the page", "email me when it ships", "what is your phone number?", "call me maybe",
    "do you have an email address?", "serial 123-45-67890 does not register", "the code is AB12 CD34", "PIN please",
    "550e8400-e29b-41d4-a716-446655440000 is the request id", "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709 is the checksum", "model X-100-20-3000 in blue",
    "1234567812345678 parcels",
    "0000 0000 0000 0000 shows on the display", "from 9am to 5pm, Monday 1-5", "room 12:34, floor 5",
    "1,000,000,000 rows",
    "my password is incorrect", "I forgot my password", "reset the password: where?", "the token is invalid",
    "secret sauce",
    "what is an api key?", "my api key is not working", "the secret is out-of-stock", "tokens are expensive",
    "a password is required to log in", "is the passcode four-digit?", "password must be longer", "sk-ip this step",
    "eyJust kidding", "task-force meeting at noon", "the secret: patience", "access token expired again",
    "AKIAS is a shop",
    "DE is short for Germany, 89 for Munich", "GB82 WEST is a bus line", "flat 3M02, door 606",
    "IBAN is missing on the form",
    "GB82WEST12345698765431 looks wrong", "what does IBAN mean?", "I moved from NW1 6XE to SW1A 1AA",
    "part AB123456 please",
    "ticket 203.0.113 is open", "score 3.14.15.926", "256.300.1.1 is no address", "std::vector<int> in C++", "a::b::c",
    "time 00:11:22:33", "1:2:3", "the colour #AABBCC", "aa:bb:cc is a pattern", "2 + 2 = 4", "50% off until 31/12/2026",
    "latitude 52.5200, longitude 13.4050", "dimensions 20 x 30 x 40 cm", "12345678901234567890 is a big number",
    "order 5555-5555-5555-4443 was cancelled", "batch 378282246310006", "reference 020 7946 00", "extension 12",
    "NHS waiting times are long", "my tax id is missing", "QQ123456C is the example on the form",
    "000-12-3456 is a sample",
    "size 10-12-2026?", "SKU 123-45-6789-0", "can I return it within 30 days", "delivery took 14 days",
    "item 42, aisle 7",
    "Kettle 3000 Pro 2026 Edition", "10.5.2026 is the date", "5.0.1 is out", "chapter 10.2", "win 2-1 on Sunday",
    "the year 1999 and 2000", "call the function f(650, 253, 0000)", "I called 3 times", "text me later", "ring size 7",
)  # fmt: skip

CASES: list[tuple[str, str]] = [
    *(("email", text) for text in EMAIL),
    *(("phone", text) for text in PHONE),
    *(("card", text) for text in CARD),
    *(("iban", text) for text in IBAN),
    *MACHINE,
    *(("national_id", text) for text in NATIONAL),
    *(("secret", text) for text in SECRET),
    *(("", text) for text in CLEAN),
]

HELD: list[tuple[str, str]] = [
    *(("email", text) for text in (
        "reach me under t.okafor@mail.example.com", "Reply-To: Returns PageContext <returns@shop.example.org>",
        "see https://shop.example.com/track?email=li.wei@example.com", "my wife (sara_lund@example.se) ordered it",
        "user.name+filter-7@example.co, not the old one", "E-MAIL:PETE@EXAMPLE.COM",
        "two: a1@example.com;b2@example.com",
        "it says 'lena@example.academy' is taken", "name@xn--bcher-kva.example is mine", "j@example.com",
    )),
    *(("phone", text) for text in (
        "best number: +44 7700 900123", "(202) 555-0143 is my cell", "Tel: 0161 496 0123",
        "+1 (212) 555-0147 after five",
        "you can call 202.555.0178 any time", "sms to 07700 900 456", "my mobile's 07700900789", "+44 (0)20 7946 0123",
        "ring back on 1-202-555-0119 please", "+4930901820", "call 2025550188", "my phone is 212 555 0164",
    )),
    *(("card", text) for text in (
        "4242 4242 4242 4242 exp 12/27 cvc 123", "card 5200828282828210", "371449635398431 was charged",
        "6011000990139424",
        "paid with 3566 0020 2036 0505 today", "is 3852 0000 0232 37 accepted?", "2223003122003222 (mastercard)",
        "my visa: 4000056655665556.", "the card 4242-4242-4242-4242, 05/28", "card no.4111111111111111",
        "3714 496353 98431 is my amex", "I typed 4111 1111 1111 1111 3 times",
    )),
    *(("iban", text) for text in (
        "GB29 NWBK 6016 1331 9268 19 please", "to BE68 5390 0754 7034", "IT60X0542811101000000123456",
        "iban PL61109010140000071219812874", "konto SE45 5000 0000 0583 9825 7466", "NO9386011117947 is my account",
        "transfer it to PT50 0002 0123 1234 5678 9015 4 by Friday", "DE89-3704-0044-0532-0130-00",
    )),
    ("ip_address", "someone in 192.0.2.146 logged in"), ("ip_address", "ping 203.0.113.9, no answer"),
    ("ip_address", "http://198.51.100.23/admin is open"), ("ip_address", "allow 192.0.2.0/24 in the firewall"),
    ("ip_address", "curl -6 http://[2001:db8:0:1::17]:8080/"), ("ip_address", "address 2001:DB8::1 is down"),
    ("", "client=::1 refused"), ("ip_address", "my IP is 198.51.100.200."),
    ("mac_address", "bind 00:00:5E:00:53:AF to it"), ("mac_address", "the lamp's mac is 02-00-5e-10-00-01"),
    ("mac_address", "wifi card 0000.5e00.5301"), ("mac_address", "ether 52:54:00:12:34:56"),
    *(("national_id", text) for text in (
        "SSN: 123-45-6789", "ssn 536904399", "my national insurance number is AA012344B", "NI no. CE 12 34 56 A",
        "NHS No: 999 123 4578", "NHS 4010232137", "IdNr. 86 095 742 719", "Steueridentifikationsnummer: 47036892816",
    )),
    *(("secret", text) for text in (
        "DB_PASSWORD=" + "s3aGull!77", "STRIPE_API_KEY=" + "key-" + _H, "Authorization: Bearer " + _A + "xyz0",
        "aws_secret_access_key = " + _A + "/+9Z", "client_secret: " + _H[:24], "AIza" + "Sy" + _A[:33],
        "hf_" + "abcdefghijKLMNOPQRSTuvwxyzabcdefgh", "sk-ant-" + "api03-" + _A + _A,
        "github_pat_" + "11" + _A[:20] + "_" + _A + _A[:23],
        "mysql://root:" + "t0ps3cr3t" + "@db/shop", "my pin password is " + "84920175", "Passwort: " + "Sommer2026!",
        '{"token": "' + _A + '"}', "the wifi password is " + "Kettle!Steam42", "gho_" + _A + "Q",
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNz", "SG." + _A[:22] + "." + _A + "0123456",
        "pass: " + "qW3rty!!9",
        "https://hooks.slack.com/services/" + "T01ABCDEF/B01ABCDEF/" + _A[:24], "secretKey = '" + _A[:32] + "'",
    )),
    *(("", text) for text in (
        "order 100-2345678-9012345 arrived broken", "Order no 7000123412341234", "UPS 1Z12345E0205271688 is lost",
        "DHL JD014600003SE", "parcel RR123456785GB", "EAN 4006381333931 does not scan", "ISBN 0-306-40615-2",
        "IMEI 490154203237519",
        "VIN 1HGBH41JXMN109186", "invoice INV-2026-000431", "it was $1,024.50, not 999.99", "2026-11-26T02:08:03Z",
        "between 08:00 and 17:30 on 03.04.2026", "v10.15.7 on macOS", "python 3.11.7 and numpy 2.1.0",
        "firmware version 4.4.2.1",
        "clause 12.3.4.5 of the terms", "netmask is missing", "4242 4242 4242 4243 was typed wrong",
        "5500 0000 0000 0005 kroner",
        "GB29 NWBK 6016 1331 9268 18 is refused", "my plate is AB12 CDE", "he lives at SW1A 2AA",
        "666-12-3456 is not valid",
        "NHS 943 476 5918", "the part is 12-345-6789", "call me in 15 minutes", "text 80808 to vote",
        "phone case 12 Pro, 256 GB",
        "call order 2025550188 up", "@babel/core@7.24.1", "git@github.com:shop/app.git", "hero@2x.png and hero@3x.png",
        "@property\ndef name(self): ...", "tag @anna and @ben", "5 kg @ 3.20 each", "what is x @ y in numpy?",
        "std::map<int, int> m;",
        "fn main() { let a = add::fee(1); }", "12:30:45.123", "rgb #0a1b2c, #fff",
        "a3f5c2d1e4b6978812345678deadbeefcafebabe",
        "md5 9e107d9d372bb6826bd81d3542a419d6", "id 123e4567-e89b-12d3-a456-426614174000",
        "const a = 'iVBORw0KGgoAAAANSUhEUgAAAAUA'",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "api_key = os.environ['API_KEY']",
        "token = get_token(user)", "password: ********", "api_key=YOUR_API_KEY", "password = input('password: ')",
        "password: see https://shop.example/help", "the password is case-sensitive", "password is 8-12 characters long",
        "my password isn't accepted", "tokens are 20% cheaper", "the secret is: buy in January", "token: expired",
        "is the api key free?", "sk-learn is a library", "APARTMENT 12B, second floor", "the pass is valid until May",
        "a bearer of news", "Basic YWxh is base64", "the odds are 1000000:1", "lat 48.858222, lon 2.2945",
        "3.5e10 atoms",
        "0x7fff5fbff8c0", "1-800 is a prefix", "between 1914-1918 and 1939-1945", "10 000 000 visitors",
        "2 000 000 000 000 000 stars",
        "size 38 40 42 44 46 48", "1 2 3 4 5 6 7 8 9 10 11 12", "scores 21-19 18-21 21-15", "row 5 seat 12, gate B7",
        "password=None", "set PASSWORD=$DB_PASSWORD first", "secret = config.get('secret')", "passcode: four digits",
    )),
]  # fmt: skip
"""Written after the gates, by someone who had read them; since then they were corrected on this set as well."""
